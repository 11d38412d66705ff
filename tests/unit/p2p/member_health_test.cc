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

TEST_F(MemberHealthTest, WhoIsBannedIsNotUsableAndShownWithItsBlame) {
  const Member a{{"10.0.0.1", 7301}, "a", 0, false, {}}, b{{"10.0.0.2", 7301}, "b", 0, false, {}};
  EXPECT_TRUE(health_.Usable(a, now_));
  EXPECT_EQ(health_.Ban(a, now_, 8, "chunk 1"), MemberHealth::Banned::kNewly);
  EXPECT_EQ(health_.Ban(a, now_, 8, "chunk 2"), MemberHealth::Banned::kAgain);
  EXPECT_FALSE(health_.Usable(a, now_ + kBanTime - 1s));
  EXPECT_TRUE(health_.Usable(a, now_ + kBanTime));
  EXPECT_TRUE(health_.Usable(b, now_));
  const MemberHealth::Record record = health_.RecordOf("a", now_ + 1min);
  EXPECT_EQ(record.skipped_for, kBanTime - 1min);
  EXPECT_EQ(record.wrong_answers, 2u);
  EXPECT_EQ(record.blame, "chunk 2");
  EXPECT_EQ(record.skip_reason, "banned, for it sent wrong bytes");
  EXPECT_EQ(health_.Ban(b, now_, 4, "chunk 3"), MemberHealth::Banned::kNot) << "one of four is banned";
  EXPECT_FALSE(health_.Usable(b, now_)) << "it is skipped";
  EXPECT_TRUE(health_.Usable(b, now_ + MemberHealth::kSkipFirst));
  EXPECT_EQ(health_.RecordOf("b", now_).blame, "chunk 3");
}

TEST_F(MemberHealthTest, WhoCantBeBannedIsSkippedForLongerEachTime) {
  const Member a{{"10.0.0.1", 7301}, "a", 0, false, {}}, b{{"10.0.0.2", 7301}, "b", 0, false, {}};
  EXPECT_EQ(health_.Ban(a, now_, 4, "chunk 1"), MemberHealth::Banned::kNewly);
  Duration skip = MemberHealth::kSkipFirst;
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(health_.Ban(b, now_, 4, "chunk 2"), MemberHealth::Banned::kNot);
    EXPECT_EQ(health_.Ban(b, now_, 4, "chunk 3"), MemberHealth::Banned::kNot) << "of the same moment";
    EXPECT_FALSE(health_.Usable(b, now_ + skip - 1ns));
    EXPECT_TRUE(health_.Usable(b, now_ + skip));
    now_ += skip;
    health_.Succeeded("b");  // it has answered; that the bytes are wrong is found later
    skip = std::min<Duration>(2 * skip, MemberHealth::kSkipMax);
  }
  now_ += kBanTime;
  EXPECT_EQ(health_.Ban(a, now_, 4, "chunk 1"), MemberHealth::Banned::kNewly);
  EXPECT_EQ(health_.Ban(b, now_, 4, "chunk 4"), MemberHealth::Banned::kNot);
  EXPECT_TRUE(health_.Usable(b, now_ + MemberHealth::kSkipFirst)) << "that was long ago";
}

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

TEST_F(MemberHealthTest, WhatBreaksOffIsAFailureFromTheThirdTimeInARowOn) {
  const auto breaks_off = [&] { return health_.BrokeOff("a", now_, "its answer ended early"); };
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(breaks_off(), Duration(0));
    EXPECT_EQ(breaks_off(), Duration(0));
    EXPECT_TRUE(health_.Usable("a", now_));
    health_.Received("a", 1, now_);
  }
  EXPECT_EQ(breaks_off(), Duration(0));
  EXPECT_EQ(breaks_off(), Duration(0));
  // What is answered otherwise shows nothing of it.
  health_.Succeeded("a");
  EXPECT_EQ(breaks_off(), MemberHealth::kSkipFirst);
  EXPECT_FALSE(health_.Usable("a", now_));
  EXPECT_EQ(health_.RecordOf("a", now_).skip_reason, "its answer ended early");
}

TEST_F(MemberHealthTest, WhoStallsTwiceWithoutAByteBetweenIsSkippedTwiceAsLongEachTime) {
  const auto stall = [&] { return health_.Stalled("a", now_, "it gave nothing"); };
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(stall(), Duration(0));
    EXPECT_TRUE(health_.Usable("a", now_));
    health_.Received("a", 1, now_);
  }
  EXPECT_EQ(stall(), Duration(0));
  Duration last = MemberHealth::kSkipStalled / 2;
  for (int i = 0; i < 100; ++i) {
    // That it answers shows nothing of it.
    health_.Succeeded("a");
    const Duration skip = stall();
    EXPECT_EQ(skip, std::min(MemberHealth::kSkipMax, 2 * last)) << i;
    EXPECT_EQ(stall(), Duration(0)) << "what it was asked for at once";
    last = skip;
    EXPECT_FALSE(health_.Usable("a", now_ + skip - 1ns));
    now_ += skip;
    EXPECT_TRUE(health_.Usable("a", now_));
  }
  EXPECT_EQ(health_.RecordOf("a", now_ - 1ns).skip_reason, "it gave nothing");
  health_.Received("a", 1, now_);
  EXPECT_EQ(stall(), Duration(0));
}

TEST_F(MemberHealthTest, WhoIsOnlyOutrunIsAskedAgainAndCounted) {
  for (int i = 0; i < 100; ++i) health_.NoteOutrun("a");
  EXPECT_TRUE(health_.Usable("a", now_));
  EXPECT_EQ(health_.RecordOf("a", now_).outrun, 100u);
  EXPECT_EQ(health_.RecordOf("a", now_).failures, 0u);
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

TEST_F(MemberHealthTest, WhatAskingCameToIsRecorded) {
  EXPECT_EQ(health_.RecordOf("a", now_).requests, 0u);
  health_.Succeeded("a");
  health_.Failed("a", now_, "status 500");
  health_.Failed("a", now_, "what failed with it");
  MemberHealth::Record record = health_.RecordOf("a", now_ + 400ms);
  EXPECT_EQ(record.requests, 3u);
  EXPECT_EQ(record.failures, 2u);
  EXPECT_EQ(record.skipped_for, 600ms);
  EXPECT_EQ(record.skip_reason, "status 500");
  EXPECT_EQ(record.wrong_answers, 0u);
  EXPECT_EQ(record.blame, "");
  record = health_.RecordOf("a", now_ + 1s);
  EXPECT_EQ(record.skipped_for, Duration(0));
  EXPECT_EQ(record.skip_reason, "");

  health_.SentWrong("a", now_ + 1s, "chunk 7");
  record = health_.RecordOf("a", now_ + 11s);
  EXPECT_EQ(record.wrong_answers, 1u);
  EXPECT_EQ(record.blame, "chunk 7");
  EXPECT_EQ(record.blame_age, 10s);
  EXPECT_EQ(record.skipped_for, MemberHealth::kSkipWrong - 10s);
  EXPECT_EQ(record.skip_reason, "it sent wrong bytes");
  EXPECT_EQ(health_.RecordOf("b", now_).requests, 0u);
}

TEST_F(MemberHealthTest, BytesCountForTenMinutes) {
  now_ = Instant{2h + 30s};
  health_.Received("a", 100, now_);
  health_.Received("a", 10, now_ + 5min);
  EXPECT_EQ(health_.RecordOf("a", now_ + 5min).recent_bytes, 110u);
  EXPECT_EQ(health_.RecordOf("a", now_ + 9min).recent_bytes, 110u);
  EXPECT_EQ(health_.RecordOf("a", now_ + 10min).recent_bytes, 10u);
  EXPECT_EQ(health_.RecordOf("a", now_ + 15min).recent_bytes, 0u);
  health_.Received("a", 1, now_ + 100min);
  EXPECT_EQ(health_.RecordOf("a", now_ + 100min).recent_bytes, 1u);
  // Threads come to the lock in any order.
  health_.Received("a", 1, now_ + 99min);
  EXPECT_EQ(health_.RecordOf("a", now_ + 99min).recent_bytes, 2u);
}

TEST_F(MemberHealthTest, OfALongReasonTheBeginningIsKept) {
  health_.Failed("a", now_, std::string(10000, 'x'));
  health_.SentWrong("b", now_, std::string(10000, 'x'));
  EXPECT_EQ(health_.RecordOf("a", now_).skip_reason.size(), MemberHealth::kReasonBytesMax);
  EXPECT_EQ(health_.RecordOf("b", now_).blame.size(), MemberHealth::kReasonBytesMax);
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

TEST_F(MemberHealthTest, WhatIsQuietTogetherCountsOnceAndAnAnswerBetweenEndsIt) {
  const auto is_skipped = [&] { return health_.WasQuiet("a", now_, "it said nothing") > Duration(0); };
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(is_skipped()) << "together";
  now_ += 2 * MemberHealth::kQuietApart;
  health_.Succeeded("a");
  EXPECT_FALSE(is_skipped());
  now_ += 2 * MemberHealth::kQuietApart;
  EXPECT_TRUE(is_skipped());
}

}  // namespace
}  // namespace sluice::p2p
