#include "p2p/cluster/member_health.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;

class MemberHealthTest : public ::testing::Test {
 protected:
  Instant now_{1h};
  MemberHealth health_;
};

TEST_F(MemberHealthTest, WhoIsNotKnownIsUsable) {
  EXPECT_TRUE(health_.Usable("a", now_));
  EXPECT_EQ(health_.NameOf(SenderId{1}), "");
}

TEST_F(MemberHealthTest, FailuresInARowAreSkippedTwiceAsLongEachTimeUpToABound) {
  Duration last = MemberHealth::kSkipFirst / 2;
  for (int i = 0; i < 100; ++i) {
    const Duration skip = health_.Failed("a", now_);
    EXPECT_EQ(skip, std::min(MemberHealth::kSkipMax, 2 * last)) << i;
    last = skip;
    EXPECT_FALSE(health_.Usable("a", now_ + skip - 1ns));
    now_ += skip;
    EXPECT_TRUE(health_.Usable("a", now_));
  }
  EXPECT_TRUE(health_.Usable("b", now_));
}

TEST_F(MemberHealthTest, WhatFailsTogetherIsOneFailure) {
  EXPECT_EQ(health_.Failed("a", now_), MemberHealth::kSkipFirst);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(health_.Failed("a", now_ + 1ms), Duration(0));
  EXPECT_EQ(health_.Failed("a", now_ + MemberHealth::kSkipFirst), 2 * MemberHealth::kSkipFirst);
}

TEST_F(MemberHealthTest, ASuccessForgetsFailuresButLetsNobodyInEarlier) {
  health_.Failed("a", now_);
  health_.Failed("a", now_ += 1s);
  health_.Succeeded("a");
  EXPECT_FALSE(health_.Usable("a", now_ + 1ms));
  EXPECT_EQ(health_.Failed("a", now_ + 2s), MemberHealth::kSkipFirst);
  health_.Succeeded("nobody");
}

TEST_F(MemberHealthTest, WrongBytesCostMoreThanAFailureAndNoSuccessEndsIt) {
  health_.SentWrong("a", now_);
  health_.Succeeded("a");
  health_.Failed("a", now_);
  EXPECT_FALSE(health_.Usable("a", now_ + MemberHealth::kSkipWrong - 1ns));
  EXPECT_TRUE(health_.Usable("a", now_ + MemberHealth::kSkipWrong));
}

TEST_F(MemberHealthTest, NumbersStandForNames) {
  const SenderId a = health_.IdOf("a"), b = health_.IdOf("b");
  EXPECT_NE(a, b);
  EXPECT_EQ(health_.IdOf("a"), a);
  health_.SentWrong("a", now_);
  EXPECT_EQ(health_.IdOf("a"), a);
  EXPECT_EQ(health_.NameOf(a), "a");
  EXPECT_EQ(health_.NameOf(b), "b");
}

// Of addresses that come and go for weeks.
TEST_F(MemberHealthTest, MemoryIsBoundedAndNoNumberEverMeansAnother) {
  const SenderId first = health_.IdOf("first");
  for (size_t i = 0; i <= MemberHealth::kEntriesMax; ++i) health_.IdOf(absl::StrCat("member ", i));
  EXPECT_EQ(health_.NameOf(first), "");
  EXPECT_NE(health_.IdOf("first"), first);
  EXPECT_EQ(health_.NameOf(health_.IdOf("member 1")), "member 1");
}

}  // namespace
}  // namespace sluice::p2p
