#include "node/fetch_scheduler.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <string>

#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

constexpr uint32_t kChunk = kChunkSizeDefault;

// A blob of 64 MiB, said to be in the registry.
std::shared_ptr<Blob> MakeBlob(uint16_t name, const std::string& registry = "r",
                               uint32_t chunk_size = kChunk) {
  std::array<uint8_t, Digest::kBytes> bytes{static_cast<uint8_t>(name), static_cast<uint8_t>(name >> 8)};
  return std::make_shared<Blob>(BlobSpec{Digest(bytes),
                                         std::max<uint64_t>(uint64_t{64} << 20, chunk_size),
                                         chunk_size,
                                         {},
                                         {{registry, "app"}}});
}

// Gives chunks in order, up to a limit.
class Work final : public WorkSource {
 public:
  explicit Work(uint32_t limit) : limit_(limit) {}
  std::optional<ChunkSpan> Next(uint32_t count_max, Instant) override {
    const ChunkSpan span{ChunkIndex(given), std::min(count_max, limit_ - given)};
    if (span.count == 0) return std::nullopt;
    given += span.count;
    return span;
  }
  void Ended(ChunkSpan, const absl::Status&) override {}
  uint32_t given = 0;

 private:
  const uint32_t limit_;
};

class FetchSchedulerTest : public ::testing::Test {
 protected:
  void Push(const std::shared_ptr<Blob>& blob, int count, FetchClass fetch_class = FetchClass::kDemand) {
    for (int i = 0; i < count; ++i) scheduler_.Push(blob, {ChunkIndex(0), 1}, fetch_class);
  }

  // How many of each blob's start now.
  std::map<const Blob*, int> PopAll() {
    std::map<const Blob*, int> started;
    while (auto start = scheduler_.Pop()) {
      ++started[start->run.blob.get()];
      under_way_.push_back(*std::move(start));
    }
    return started;
  }

  fakes::FakeClock clock_;
  FetchScheduler scheduler_{clock_, {{16, 8, 4, 2}, uint64_t{64} << 20, 8 << 20}};
  std::vector<FetchScheduler::Start> under_way_;
};

TEST_F(FetchSchedulerTest, ABlobLeavesHalfToOthersOfItsRegistryAndThatHalfToOthers) {
  const auto stalled = MakeBlob(1), second = MakeBlob(2), third = MakeBlob(3),
             elsewhere = MakeBlob(4, "other");
  Push(stalled, 100);
  EXPECT_EQ(PopAll()[stalled.get()], 4) << "of 16, the registry has 8";
  Push(second, 100);
  EXPECT_EQ(PopAll(), (std::map<const Blob*, int>{{second.get(), 2}}));
  Push(third, 100);
  EXPECT_EQ(PopAll(), (std::map<const Blob*, int>{{third.get(), 1}}));
  Push(elsewhere, 1);
  EXPECT_EQ(PopAll(), (std::map<const Blob*, int>{{elsewhere.get(), 1}}));
}

TEST_F(FetchSchedulerTest, ManyStalledBlobsOfOneRegistryLeaveRoomForAnother) {
  std::vector<std::shared_ptr<Blob>> stalled;
  for (uint16_t i = 0; i < 300; ++i) {
    stalled.push_back(MakeBlob(i, "stalled"));
    Push(stalled.back(), 1);
  }
  EXPECT_EQ(PopAll().size(), 8u);
  const auto healthy = MakeBlob(1000, "healthy");
  Push(healthy, 2);
  EXPECT_EQ(PopAll(), (std::map<const Blob*, int>{{healthy.get(), 2}}));
}

TEST_F(FetchSchedulerTest, WhatEndsMakesRoomForItsOwnBlobAgain) {
  const auto blob = MakeBlob(1);
  Push(blob, 9);
  EXPECT_EQ(PopAll()[blob.get()], 4);
  under_way_.erase(under_way_.begin());
  EXPECT_EQ(PopAll()[blob.get()], 1);
}

TEST_F(FetchSchedulerTest, BlobsAndRegistriesTakeTurns) {
  const auto a = MakeBlob(1), b = MakeBlob(2), c = MakeBlob(3, "other");
  Push(a, 2);
  Push(b, 2);
  Push(c, 2);
  std::string order;
  while (auto start = scheduler_.Pop()) {
    order += start->run.blob == a ? 'a' : start->run.blob == b ? 'b' : 'c';
    under_way_.push_back(*std::move(start));
  }
  EXPECT_EQ(order, "acbcab");
}

TEST_F(FetchSchedulerTest, DemandGoesFirstAndEachClassHasItsBound) {
  const auto blob = MakeBlob(1);
  Push(blob, 4, FetchClass::kBackfill);
  Push(blob, 1);
  under_way_.push_back(*scheduler_.Pop());
  EXPECT_EQ(under_way_.back().run.fetch_class, FetchClass::kDemand);
  EXPECT_EQ(PopAll()[blob.get()], 1) << "of two, one registry gets one";
}

TEST_F(FetchSchedulerTest, RunsOfABlobStartInTheOrderInWhichTheyCameHoweverTheyAreCut) {
  const auto blob = MakeBlob(1);
  const uint32_t chunks = blob->geometry().chunk_count();
  uint32_t pushed = 0, popped = 0;
  const auto pop_one = [&] {
    const auto start = scheduler_.Pop();
    ASSERT_TRUE(start);
    EXPECT_EQ(start->run.chunks.first, ChunkIndex(popped));
    popped += start->run.chunks.count;
  };
  for (uint32_t count : {1, 40, 2, 50, 1, 1, 1, 35, 3}) {
    scheduler_.Push(blob, {ChunkIndex(pushed), count}, FetchClass::kDemand);
    pushed += count;
    if (pushed % 2 == 1) pop_one();
  }
  while (popped < pushed) pop_one();
  EXPECT_FALSE(scheduler_.Pop());
  EXPECT_LT(pushed, chunks);
  EXPECT_EQ(blob.use_count(), 1) << "nothing is left of it";
}

TEST_F(FetchSchedulerTest, BytesOfDemandAreBoundedTooAndLargeRunsAreCut) {
  const auto blob = MakeBlob(1);
  scheduler_.Push(blob, blob->geometry().All(), FetchClass::kDemand);
  uint64_t bytes = 0;
  while (auto start = scheduler_.Pop()) {
    const uint64_t length = blob->geometry().RangeOf(start->run.chunks).length;
    EXPECT_LE(length, 8u << 20);
    bytes += length;
    under_way_.push_back(*std::move(start));
  }
  EXPECT_EQ(bytes, 16u << 20) << "half of half";
  EXPECT_EQ(scheduler_.inflight_bytes(), bytes);
  const auto elsewhere = MakeBlob(2, "other");
  scheduler_.Push(elsewhere, {ChunkIndex(0), 8}, FetchClass::kDemand);
  EXPECT_EQ(PopAll()[elsewhere.get()], 1);
  // What arrives makes room, before the fetch has ended.
  under_way_.front().slot.Arrived(8 << 20);
  EXPECT_EQ(PopAll()[blob.get()], 1);
  under_way_.clear();
  EXPECT_EQ(scheduler_.inflight_bytes(), 0u);
}

TEST_F(FetchSchedulerTest, HugeChunksGoOneByOneAndLeaveOtherRegistriesAlone) {
  const uint32_t huge = 64 << 20;
  const auto a = MakeBlob(1, "huge", huge), b = MakeBlob(2, "huge", huge), c = MakeBlob(3, "other");
  Push(a, 1);
  Push(b, 1);
  EXPECT_EQ(PopAll().size(), 1u);
  Push(c, 1);
  EXPECT_EQ(PopAll()[c.get()], 1);
  EXPECT_EQ(scheduler_.inflight_bytes(), huge + kChunk);
  under_way_.erase(under_way_.begin());
  EXPECT_EQ(PopAll().size(), 1u) << "the other one's turn";
}

TEST_F(FetchSchedulerTest, BelowDemandGetsHalfOfTheBytesAndDemandWhatIsLeft) {
  const auto filled = MakeBlob(1);
  const auto work = std::make_shared<Work>(256);
  scheduler_.Ready(work, filled, FetchClass::kReadahead);
  PopAll();
  EXPECT_EQ(scheduler_.inflight_bytes(), 8u << 20) << "half of half of half";
  const auto read = MakeBlob(1);
  scheduler_.Push(read, read->geometry().All(), FetchClass::kDemand);
  uint64_t before = scheduler_.inflight_bytes();
  PopAll();
  EXPECT_EQ(scheduler_.inflight_bytes() - before, uint64_t{56 << 20} / 4);
}

// Classes that all have more than can be under way. Slots are plenty, so that they compete for bytes.
class WeightsTest : public ::testing::Test {
 protected:
  using Bytes = std::array<uint64_t, kFetchClassCount>;

  // Blobs of several registries have work for ever.
  void KeepBusy(FetchClass fetch_class, uint32_t chunk_size = kChunk) {
    for (uint16_t i = 0; i < 160; ++i) {
      const auto blob = MakeBlob(++names_, "r" + std::to_string(i % 4), chunk_size);
      scheduler_.Ready(std::make_shared<Work>(UINT32_MAX), blob, fetch_class);
    }
  }
  // Bytes of each class that have started when so many fetches have ended, in the order of their starts.
  Bytes Run(int ends) {
    Bytes started{};
    for (; ends > 0; --ends) {
      while (auto start = scheduler_.Pop()) {
        started[static_cast<int>(start->run.fetch_class)] +=
            start->run.blob->geometry().RangeOf(start->run.chunks).length;
        under_way_.push_back(*std::move(start));
      }
      under_way_.pop_front();
    }
    return started;
  }

  uint16_t names_ = 0;
  fakes::FakeClock clock_;
  FetchScheduler scheduler_{clock_, {{999, 999, 999, 999}, uint64_t{64} << 20, kChunk}};
  std::deque<FetchScheduler::Start> under_way_;
};

TEST_F(WeightsTest, ClassesBelowDemandShareByTheirWeightsAndNoneStarves) {
  for (const FetchClass each : {FetchClass::kReadahead, FetchClass::kHint, FetchClass::kBackfill})
    KeepBusy(each);
  const Bytes started = Run(7000);
  const auto backfill = static_cast<double>(started[3]);
  EXPECT_NEAR(static_cast<double>(started[1]) / backfill, 4, 0.1);
  EXPECT_NEAR(static_cast<double>(started[2]) / backfill, 2, 0.1);
}

TEST_F(WeightsTest, WeightsAreOfBytesAndNotOfFetches) {
  KeepBusy(FetchClass::kHint);
  KeepBusy(FetchClass::kBackfill, 4 * kChunk);
  const Bytes started = Run(7000);
  EXPECT_NEAR(static_cast<double>(started[2]) / static_cast<double>(started[3]), 2, 0.1);
}

TEST_F(WeightsTest, WhatAClassDidNotUseOthersHaveAndItIsNotGivenBackLater) {
  KeepBusy(FetchClass::kBackfill);
  EXPECT_GT(Run(7000)[3], 7000u * kChunk) << "alone it has all";
  KeepBusy(FetchClass::kReadahead);
  const Bytes started = Run(2000);
  EXPECT_GT(started[3], started[1] / 5) << "and goes on with its share";
  KeepBusy(FetchClass::kHint);
  const Bytes of_three = Run(7000);
  EXPECT_NEAR(static_cast<double>(of_three[1]) / static_cast<double>(of_three[2]), 2, 0.1);
}

TEST_F(FetchSchedulerTest, AClassWhosePlacesWereTakenHasNoMoreThanItsShareAfterwards) {
  // Of two places of backfill one registry has one.
  const auto stalled = MakeBlob(1);
  scheduler_.Ready(std::make_shared<Work>(UINT32_MAX), stalled, FetchClass::kBackfill);
  std::optional<FetchScheduler::Start> held = scheduler_.Pop();
  ASSERT_TRUE(held);
  const auto read = MakeBlob(2);
  scheduler_.Ready(std::make_shared<Work>(UINT32_MAX), read, FetchClass::kReadahead);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(scheduler_.Pop()->run.blob, read);
  held.reset();
  int of_backfill = 0;
  for (int i = 0; i < 100; ++i) of_backfill += scheduler_.Pop()->run.blob == stalled;
  EXPECT_NEAR(of_backfill, 20, 2);
}

TEST_F(FetchSchedulerTest, WorkIsAskedWhenThereIsRoomAndUntilItHasNothing) {
  const auto blob = MakeBlob(1);
  const auto work = std::make_shared<Work>(3);
  scheduler_.Ready(work, blob, FetchClass::kBackfill);
  scheduler_.Ready(work, blob, FetchClass::kBackfill);
  EXPECT_EQ(work->given, 0u);
  auto start = scheduler_.Pop();
  ASSERT_TRUE(start);
  EXPECT_EQ(start->run.work, work);
  EXPECT_EQ(start->run.chunks, (ChunkSpan{ChunkIndex(0), 3}));
  EXPECT_FALSE(scheduler_.Pop());
  start.reset();
  EXPECT_FALSE(scheduler_.Pop());
  EXPECT_EQ(blob.use_count(), 1) << "nothing is left of it";
}

TEST_F(FetchSchedulerTest, WorkThatIsDroppedIsNotAsked) {
  const auto blob = MakeBlob(1);
  const auto work = std::make_shared<Work>(3);
  scheduler_.Ready(work, blob, FetchClass::kHint);
  scheduler_.Drop(*work, *blob, FetchClass::kHint);
  EXPECT_FALSE(scheduler_.Pop());
  EXPECT_EQ(work->given, 0u);
  EXPECT_EQ(blob.use_count(), 1);
}

TEST_F(FetchSchedulerTest, ASlotGivesBackWhatIsLeftOfIt) {
  const auto blob = MakeBlob(1);
  {
    FetchScheduler::Slot slot = scheduler_.Take(blob, {ChunkIndex(0), 4}, FetchClass::kDemand);
    EXPECT_TRUE(slot.CutTo(3 * kChunk));
    EXPECT_EQ(scheduler_.inflight_bytes(), 3u * kChunk);
    slot.Arrived(kChunk);
    FetchScheduler::Slot moved = std::move(slot);
    EXPECT_EQ(scheduler_.inflight_bytes(), 2u * kChunk);
    EXPECT_FALSE(FetchScheduler::Slot().CutTo(1));
  }
  EXPECT_EQ(scheduler_.inflight_bytes(), 0u);
  EXPECT_EQ(blob.use_count(), 1);
}

}  // namespace
}  // namespace sluice
