#include "ondemand/keeper_on_host.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "ondemand/keeper/host.h"

namespace sluice::ondemand {
namespace {

namespace fs = std::filesystem;

class KeeperOnHostTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/keeper-on-host-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    fs::create_directory(root_ + "/data");
    std::ofstream(root_ + "/keeper") << "one";
  }
  void TearDown() override { fs::remove_all(root_); }

  absl::StatusOr<std::string> Place() { return PlaceKeeperOnHost(root_ + "/keeper", root_ + "/data"); }
  static std::string Content(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string root_;
};

TEST_F(KeeperOnHostTest, CopyIsThereAndCanBeRun) {
  const auto path = Place();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, root_ + "/data/bin/sluice-keeper");
  EXPECT_EQ(Content(*path), "one");
  EXPECT_EQ(fs::status(*path).permissions(), fs::perms(0755));
}

TEST_F(KeeperOnHostTest, SameOneIsLeftAlone) {
  ASSERT_TRUE(Place().ok());
  struct stat before {};
  struct stat after {};
  ASSERT_EQ(stat(Place()->c_str(), &before), 0);
  ASSERT_EQ(stat(Place()->c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
}

// What runs from the old file has it as long as it runs: it may not be written over.
TEST_F(KeeperOnHostTest, AnotherOneTakesItsPlace) {
  const std::string path = *Place();
  std::ifstream running(path);
  std::ofstream(root_ + "/keeper") << "two";
  ASSERT_TRUE(Place().ok());
  EXPECT_EQ(Content(path), "two");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(running), {}), "one");
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ + "/data/bin"), {}), 1);
}

TEST_F(KeeperOnHostTest, DamagedOneIsReplaced) {
  const std::string path = *Place();
  std::ofstream(path) << "on";
  ASSERT_TRUE(Place().ok());
  EXPECT_EQ(Content(path), "one");
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  ASSERT_TRUE(Place().ok());
  EXPECT_EQ(fs::status(path).permissions(), fs::perms(0755));
}

TEST_F(KeeperOnHostTest, NoKeeperIsSaid) {
  fs::remove(root_ + "/keeper");
  EXPECT_NE(Place().status().message().find(root_ + "/keeper"), std::string::npos) << Place().status();
  EXPECT_FALSE(fs::exists(root_ + "/data/bin"));
}

TEST_F(KeeperOnHostTest, OnlyRootsOfHierarchiesCount) {
  EXPECT_EQ(keeper::CgroupRoots(
                "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                "36 31 0:33 / /sys/fs/cgroup/devices rw,relatime shared:9 - cgroup cgroup rw,devices\n"
                "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:7 master:1 - cgroup2 cgroup2 rw\n"
                "42 31 0:38 /kubepods/pod1 /other rw,relatime - cgroup2 cgroup2 rw\n"
                "43 31 0:39 / /not/one rw - tmpfs cgroup2 rw\n"
                "garbage\n"),
            (std::vector<std::string>{"/sys/fs/cgroup/devices", "/sys/fs/cgroup/unified"}));
}

}  // namespace
}  // namespace sluice::ondemand
