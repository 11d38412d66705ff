#include "ondemand/keeper/mount_list.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include <string>

namespace sluice::keeper {
namespace {

// REQUIRES: there is such a line
const MountLine& Find(const std::vector<MountLine>& lines, uint64_t id) {
  for (const MountLine& line : lines) {
    if (line.id == id) return line;
  }
  ADD_FAILURE() << "no mount " << id;
  return lines.front();
}

TEST(MountListTest, LinesAreReadAndOddOnesLeftOut) {
  const std::vector<MountLine> lines = ParseMountLines(
      "36 35 0:42 / /mnt/a\\040b\\012c rw,noatime master:1 - erofs none ro\n"
      "nonsense\n"
      "37 35 8:1 /sub\n"
      "38 36 259:7 /root /mnt/x ro - ext4 /dev/x rw");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].id, 36u);
  EXPECT_EQ(lines[0].parent, 35u);
  EXPECT_EQ(lines[0].device, makedev(0, 42));
  EXPECT_EQ(lines[0].point, "/mnt/a b\nc");
  EXPECT_EQ(lines[1].device, makedev(259, 7));
  EXPECT_EQ(lines[1].point, "/mnt/x");
}

TEST(MountListTest, WhatIsMountedOverOrAboveHides) {
  const std::vector<MountLine> lines = ParseMountLines(
      "1 0 8:1 / / rw - ext4 x rw\n"
      "2 1 0:9 / /a/over rw - erofs x ro\n"
      "3 2 0:5 / /a/over rw - tmpfs x rw\n"  // over it
      "4 1 0:9 / /b/hidden/app rw - erofs x ro\n"
      "5 1 0:6 / /b/hidden rw - tmpfs x rw\n"  // over a directory that led to it
      "6 1 0:9 / /c/app rw - erofs x ro\n"
      "7 6 0:7 / /c/app/below rw - tmpfs x rw\n"     // in it
      "8 1 0:8 / /c/ap rw - tmpfs x rw\n"            // another name
      "9 5 0:9 / /b/hidden/app rw - erofs x ro\n");  // on what hides the other
  EXPECT_TRUE(IsHidden(lines, Find(lines, 2)));
  EXPECT_FALSE(IsHidden(lines, Find(lines, 3)));
  EXPECT_TRUE(IsHidden(lines, Find(lines, 4)));
  EXPECT_FALSE(IsHidden(lines, Find(lines, 6)));
  EXPECT_FALSE(IsHidden(lines, Find(lines, 9)));
}

TEST(MountListTest, TheKernelsListHasTheRoot) {
  MountList list;
  const std::vector<MountLine>& lines = list.Lines();
  ASSERT_FALSE(lines.empty());
  const MountLine first = lines.front();
  ASSERT_NE(list.Find(first.id, first.device), nullptr);
  EXPECT_EQ(list.Find(first.id, first.device)->point, first.point);
  EXPECT_EQ(list.Find(first.id, first.device + 1), nullptr);
}

}  // namespace
}  // namespace sluice::keeper
