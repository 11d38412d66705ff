#include "node/read_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <utility>

namespace sluice {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

const Instant kStart{std::chrono::hours(1)};

TEST(DeadlinesTest, ATimerIsSetForTheEarliestAndNoOther) {
  Deadlines<int> deadlines;
  EXPECT_EQ(deadlines.Arm(), std::nullopt);
  deadlines.Add(kStart + seconds(30), 1);
  EXPECT_EQ(deadlines.Arm(), kStart + seconds(30));
  deadlines.Add(kStart + seconds(40), 2);
  EXPECT_EQ(deadlines.Arm(), std::nullopt);
  deadlines.Add(kStart + seconds(10), 3);
  EXPECT_EQ(deadlines.Arm(), kStart + seconds(10));
  EXPECT_EQ(deadlines.Arm(), std::nullopt);
}

TEST(DeadlinesTest, OnlyWhatIsDueIsTakenAndTheRestArmedAnew) {
  Deadlines<int> deadlines;
  for (int i = 1; i <= 3; ++i) deadlines.Add(kStart + seconds(10 * i), i);
  ASSERT_EQ(deadlines.Arm(), kStart + seconds(10));
  EXPECT_THAT(deadlines.TakeDue(kStart + seconds(10), kStart + seconds(20)), ElementsAre(1, 2));
  EXPECT_EQ(deadlines.Arm(), kStart + seconds(30));
}

TEST(DeadlinesTest, ATimerThatAnEarlierOneHasReplacedTakesNothing) {
  Deadlines<int> deadlines;
  deadlines.Add(kStart + seconds(30), 1);
  ASSERT_EQ(deadlines.Arm(), kStart + seconds(30));
  deadlines.Add(kStart + seconds(10), 2);
  ASSERT_EQ(deadlines.Arm(), kStart + seconds(10));
  EXPECT_THAT(deadlines.TakeDue(kStart + seconds(30), kStart + seconds(30)), IsEmpty());
  EXPECT_EQ(deadlines.Arm(), std::nullopt) << "the timer of the earlier one is still to come";
  EXPECT_THAT(deadlines.TakeDue(kStart + seconds(10), kStart + seconds(30)), ElementsAre(2, 1));
}

TEST(DeadlinesTest, WhatIsNotWaitedForAnyMoreIsKeptNoLongerThanItsBound) {
  Deadlines<int> deadlines;
  constexpr int kFirst = 1, kLast = 10000;
  for (int i = kFirst; i <= kLast; ++i) {
    deadlines.Add(kStart + seconds(i), i);
    deadlines.Prune(1, [](int id) { return id == kFirst; });
    ASSERT_LE(deadlines.size(), 2 + Deadlines<int>::kStaleMax);
  }
  EXPECT_EQ(deadlines.Arm(), kStart + seconds(kFirst));
  deadlines.Prune(0, [](int) { return false; });
  EXPECT_EQ(deadlines.size(), 0u);
}

TEST(DeadlinesTest, TheEarliestIsOneThatIsWaitedForWhicheverWentBefore) {
  Deadlines<int> deadlines;
  std::set<int> live;
  const auto is_live = [&](int id) { return live.contains(id); };
  for (const int i : {5, 3, 9, 1, 7, 8, 2, 6, 4}) {
    live.insert(i);
    deadlines.Add(kStart + seconds(i), i);
  }
  for (const int gone : {4, 1, 9, 2, 3}) {
    live.erase(gone);
    deadlines.Prune(live.size(), is_live);
  }
  EXPECT_EQ(deadlines.Arm(), kStart + seconds(5));
  EXPECT_THAT(deadlines.TakeDue(kStart + seconds(5), kStart + seconds(7)), ElementsAre(5, 6, 7));
  live = {};
  deadlines.Prune(0, is_live);
  EXPECT_EQ(deadlines.Arm(), std::nullopt);
}

class ReadTableTest : public ::testing::Test {
 protected:
  ReadId Add(Duration timeout, const WorkSource* work = nullptr) {
    const ReadId id = table_.NewId();
    PendingRead read;
    read.blob = blob_;
    read.deadline = kStart + timeout;
    read.work = work;
    table_.Add(id, std::move(read));
    return id;
  }

  const std::shared_ptr<Blob> blob_ =
      std::make_shared<Blob>(BlobSpec{Digest(), kChunkSizeMin, kChunkSizeMin, {}, {}});
  ReadTable table_;
};

TEST_F(ReadTableTest, WhatIsOverdueStaysUntilItIsTaken) {
  const ReadId early = Add(seconds(1));
  Add(seconds(5));
  ASSERT_EQ(table_.Arm(), kStart + seconds(1));
  EXPECT_THAT(table_.Overdue(kStart + seconds(1), kStart + seconds(1)), ElementsAre(early));
  EXPECT_NE(table_.Find(early), nullptr);
  EXPECT_TRUE(table_.Take(early));
  EXPECT_FALSE(table_.Take(early));
  EXPECT_EQ(table_.Find(early), nullptr);
  EXPECT_EQ(table_.size(), 1u);
}

TEST_F(ReadTableTest, AReadThatWasAnsweredHasNoDeadlineAnyMore) {
  const ReadId answered = Add(seconds(1)), waits = Add(seconds(1));
  ASSERT_TRUE(table_.Take(answered));
  ASSERT_EQ(table_.Arm(), kStart + seconds(1));
  EXPECT_THAT(table_.Overdue(kStart + seconds(1), kStart + seconds(1)), ElementsAre(waits));
  ASSERT_TRUE(table_.Take(waits));
  EXPECT_EQ(table_.Arm(), std::nullopt);
}

TEST_F(ReadTableTest, ReadsAreFoundByWhoseTheyAre) {
  class Work final : public WorkSource {
    std::optional<ChunkSpan> Next(uint32_t, Instant) override { return std::nullopt; }
    void Ended(ChunkSpan, const absl::Status&) override {}
  };
  const Work work, other;
  Add(seconds(1));
  const ReadId first = Add(seconds(1), &work), second = Add(seconds(1), &work);
  Add(seconds(1), &other);
  EXPECT_THAT(table_.OfWork(work), UnorderedElementsAre(first, second));
  EXPECT_EQ(table_.All().size(), 4u);
}

}  // namespace
}  // namespace sluice
