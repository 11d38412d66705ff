#include "ondemand/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::ondemand {
namespace {

using keeper::DoorKind;
using testing::HasSubstr;

// None of these probes anything: what is waited for is not asked whether it would work.
constexpr char kNowhere[] = "/nonexistent";

TEST(BackendTest, AutoTakesTheDoorThatReadersWaitAt) {
  for (const DoorKind waiting : {DoorKind::kFanotify, DoorKind::kCachefiles, DoorKind::kFuse}) {
    const auto choice = ChooseBackend("auto", kNowhere, waiting);
    ASSERT_TRUE(choice.ok());
    EXPECT_EQ(DoorKindOf(choice->backend), waiting);
  }
}

TEST(BackendTest, OffIsRefusedWhileReadersWait) {
  EXPECT_EQ(ChooseBackend("off", kNowhere)->backend, Backend::kOff);
  const auto choice = ChooseBackend("off", kNowhere, DoorKind::kFuse);
  EXPECT_EQ(choice.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(choice.status().message(), HasSubstr("fuse"));
}

TEST(BackendTest, UnknownNameIsRefusedAndTheKnownAreNamed) {
  const auto choice = ChooseBackend("nbd", kNowhere);
  EXPECT_EQ(choice.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(choice.status().message(), HasSubstr("cachefiles"));
}

}  // namespace
}  // namespace sluice::ondemand
