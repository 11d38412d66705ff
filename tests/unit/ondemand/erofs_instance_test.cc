#include "ondemand/erofs_instance.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

namespace sluice::ondemand {
namespace {

TEST(ErofsInstanceTest, OfAnotherStartOfTheMachineIsGone) {
  EXPECT_FALSE(Lives({"0", 1, "another start"}));
  EXPECT_FALSE(Lives({"", 0, "another start"}));
}

// Nobody may take its holes for unread.
TEST(ErofsInstanceTest, WhatIsNotKnownMayLive) {
  EXPECT_TRUE(Lives({}));
  EXPECT_TRUE(Lives({"", 0, BootId()}));
}

TEST(ErofsInstanceTest, WhatSysfsDoesNotListIsGone) {
  if (access("/sys/fs", F_OK) != 0) {
    if (std::getenv("CI") != nullptr) FAIL() << "there is no sysfs here";
    GTEST_SKIP() << "NOT TESTED: there is no sysfs here";
  }
  EXPECT_FALSE(Lives({"no such file system", 1, BootId()}));
  if (access("/sys/fs/erofs/features", F_OK) != 0) return;
  EXPECT_FALSE(Lives({"features", 1, BootId()})) << "that name is another's now";
}

TEST(ErofsInstanceTest, OtherFileSystemsAreNone) {
  EXPECT_TRUE(absl::IsNotFound(ErofsInstanceAt("/proc").status()));
  EXPECT_TRUE(absl::IsNotFound(ErofsInstanceAt("/nonexistent").status()));
}

}  // namespace
}  // namespace sluice::ondemand
