#include "ondemand/mount_point.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace sluice::ondemand {
namespace {

class MountPointTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/mount-point-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string root_;
};

TEST_F(MountPointTest, EmptyDirectoryIsFine) {
  EXPECT_TRUE(CheckMountPoint(root_).ok());
}

TEST_F(MountPointTest, SaysWhatIsWrong) {
  std::ofstream(root_ + "/file") << "x";
  EXPECT_EQ(CheckMountPoint("relative").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckMountPoint("").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckMountPoint("/" + std::string(2000, 'x')).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckMountPoint(root_ + "/none").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CheckMountPoint(root_ + "/file").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CheckMountPoint(root_).code(), absl::StatusCode::kFailedPrecondition) << "not empty";
  EXPECT_EQ(CheckMountPoint("/proc").code(), absl::StatusCode::kFailedPrecondition) << "busy";
}

TEST(MountInfoTest, ParsesTheManualsExampleAndEscapes) {
  const auto mounts = ParseMountInfo(
      "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
      "43 27 0:39 / /a\\040b\\134c ro - erofs /proc/self/fd/3 ro\n"
      "garbage\n"
      "1 2 - x\n");
  ASSERT_EQ(mounts.size(), 2u);
  EXPECT_EQ(mounts[0].id, 36);
  EXPECT_EQ(mounts[0].device, "98:0");
  EXPECT_EQ(mounts[0].mount_point, "/mnt2");
  EXPECT_EQ(mounts[0].type, "ext3");
  EXPECT_EQ(mounts[0].source, "/dev/root");
  EXPECT_EQ(mounts[1].mount_point, "/a b\\c");
}

TEST(MountInfoTest, ThisProcessHasMounts) {
  const auto mounts = ReadMountInfo();
  ASSERT_TRUE(mounts.ok());
  EXPECT_FALSE(mounts->empty());
}

}  // namespace
}  // namespace sluice::ondemand
