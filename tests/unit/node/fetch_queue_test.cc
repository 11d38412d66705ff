#include <gtest/gtest.h>

#include <map>

#include "node/fetch_table.h"

namespace sluice {
namespace {

std::shared_ptr<Blob> MakeBlob(uint8_t name) {
  std::array<uint8_t, Digest::kBytes> bytes{name};
  return std::make_shared<Blob>(BlobSpec{Digest(bytes), uint64_t{64} << 20, 256 << 10, {}, {}});
}

class FetchQueueTest : public ::testing::Test {
 protected:
  void Push(const std::shared_ptr<Blob>& blob, int count, FetchClass fetch_class = FetchClass::kDemand) {
    for (int i = 0; i < count; ++i) {
      ASSERT_TRUE(queue_.Push({next_id_++, blob, {ChunkIndex(0), 1}, fetch_class, Instant(), 0}).ok());
    }
  }

  // How many of each blob's start now.
  std::map<const Blob*, int> PopAll() {
    std::map<const Blob*, int> started;
    for (PendingFetch fetch = queue_.Pop(); fetch.chunks.count > 0; fetch = queue_.Pop()) {
      ++started[fetch.blob.get()];
      under_way_.push_back(fetch);
    }
    return started;
  }

  FetchQueue queue_{{{16, 8, 4, 2}, uint64_t{1} << 30, 100}};
  std::vector<PendingFetch> under_way_;
  FetchId next_id_ = 1;
};

TEST_F(FetchQueueTest, OneBlobLeavesRoomForOthers) {
  const auto stalled = MakeBlob(1);
  const auto second = MakeBlob(2);
  const auto third = MakeBlob(3);
  Push(stalled, 100);
  EXPECT_EQ(PopAll()[stalled.get()], 8);
  Push(second, 100);
  EXPECT_EQ(PopAll(), (std::map<const Blob*, int>{{second.get(), 4}}));
  Push(third, 1);
  EXPECT_EQ(PopAll(), (std::map<const Blob*, int>{{third.get(), 1}}));
}

TEST_F(FetchQueueTest, WhatEndsMakesRoomForItsOwnBlobAgain) {
  const auto blob = MakeBlob(1);
  Push(blob, 9);
  EXPECT_EQ(PopAll()[blob.get()], 8);
  queue_.Finished(under_way_.front());
  EXPECT_EQ(PopAll()[blob.get()], 1);
}

TEST_F(FetchQueueTest, BlobsTakeTurns) {
  const auto a = MakeBlob(1);
  const auto b = MakeBlob(2);
  Push(a, 3);
  Push(b, 3);
  std::string order;
  for (PendingFetch fetch = queue_.Pop(); fetch.chunks.count > 0; fetch = queue_.Pop())
    order += fetch.blob == a ? 'a' : 'b';
  EXPECT_EQ(order, "ababab");
}

TEST_F(FetchQueueTest, DemandGoesFirstAndEachClassHasItsBound) {
  const auto blob = MakeBlob(1);
  Push(blob, 4, FetchClass::kBackfill);
  Push(blob, 1);
  EXPECT_EQ(queue_.Pop().fetch_class, FetchClass::kDemand);
  EXPECT_EQ(PopAll()[blob.get()], 1) << "of two, one blob gets one";
}

TEST_F(FetchQueueTest, WhatNobodyWaitsForHasABound) {
  const auto blob = MakeBlob(1);
  const auto push = [&](FetchClass fetch_class) {
    return queue_.Push({next_id_++, blob, {ChunkIndex(0), 1}, fetch_class, Instant(), 0});
  };
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(push(i % 2 ? FetchClass::kHint : FetchClass::kBackfill).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(push(FetchClass::kReadahead)));
  EXPECT_TRUE(push(FetchClass::kDemand).ok()) << "the readers are its bound";
  EXPECT_EQ(queue_.Pop().fetch_class, FetchClass::kDemand);
  EXPECT_TRUE(absl::IsResourceExhausted(push(FetchClass::kBackfill)));
  EXPECT_EQ(queue_.Pop().fetch_class, FetchClass::kHint);
  EXPECT_TRUE(push(FetchClass::kBackfill).ok()) << "one has left the queue";
  EXPECT_TRUE(absl::IsResourceExhausted(push(FetchClass::kBackfill)));
}

}  // namespace
}  // namespace sluice
