#include "node/daemon/quota.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "tests/unit/index/store_fixture.h"

namespace sluice {
namespace {

using index::RoomNeed;
using index::SampleBlob;
using std::chrono::milliseconds;

// A store that is full with one blob, and a writer that wants a chunk's room.
class QuotaTest : public index::StoreTest {
 protected:
  static constexpr uint64_t kChunk = kChunkSizeMin;

  void SetUp() override {
    OpenStore();
    CommitAll(sample_);
    lease_ = LeaseOf(sample_);
    used_ = store_->UsedBytes();
    quota_ =
        std::make_unique<Quota>(Quota::Parts{*store_, telemetry_, [] { return 0; }, [](const BlobKey&) {},
                                             [](const BlobKey&) { return absl::OkStatus(); },
                                             [this](const std::string& text) { Note("alarm " + text); }},
                                StoreLimits{.capacity_bytes = used_ + kChunk / 2});
  }
  bool IsThere() { return store_->Find(sample_.spec.digest) != nullptr; }
  // Until it is so, for at most ten seconds.
  template <typename Condition>
  bool Becomes(Condition condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(10));
    return condition();
  }
  milliseconds TimeOfRoomFor(uint64_t bytes) {
    const auto begun = std::chrono::steady_clock::now();
    quota_->MakeRoom(bytes, RoomNeed::kCapacity);
    return std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begun);
  }

  const SampleBlob sample_{1};
  std::optional<Blob::Lease> lease_;
  uint64_t used_ = 0;
  std::unique_ptr<Quota> quota_;
};

TEST_F(QuotaTest, WhatFitsEvictsNothing) {
  lease_.reset();
  quota_->MakeRoom(kChunk / 4, RoomNeed::kCapacity);
  EXPECT_TRUE(IsThere());
}

TEST_F(QuotaTest, AWriterWaitsForWhatIsLetGoOfSoon) {
  std::thread letting_go([this] {
    std::this_thread::sleep_for(Quota::kPatience / 4);
    lease_.reset();
  });
  quota_->MakeRoom(kChunk, RoomNeed::kCapacity);
  letting_go.join();
  EXPECT_FALSE(IsThere());
  EXPECT_FALSE(Noted("alarm"));
}

TEST_F(QuotaTest, WhatStaysInUseHoldsUpOneWriterAndIsAnAlarm) {
  const milliseconds first = TimeOfRoomFor(kChunk);
  EXPECT_GE(first, Quota::kPatience);
  milliseconds others{};
  for (int i = 0; i < 20; ++i) others += TimeOfRoomFor(kChunk);
  EXPECT_LT(others, 20 * Quota::kPatience / 2);
  EXPECT_TRUE(IsThere());
  EXPECT_FALSE(Noted("alarm")) << "it is within its capacity still";
  const SampleBlob more(2);
  OpenBlob(more);
  const absl::StatusOr<Blob::Lease> in_use = store_->Acquire(more.spec.digest);
  ASSERT_TRUE(in_use.ok()) << in_use.status();
  CommitAll(more);
  quota_->MakeRoom(kChunk, RoomNeed::kCapacity);
  EXPECT_TRUE(Becomes([this] { return Noted("alarm the store takes up"); }));
}

TEST_F(QuotaTest, WhatIsLetGoOfAfterHopeWasGivenUpIsEvictedAllTheSame) {
  quota_->MakeRoom(kChunk, RoomNeed::kCapacity);
  ASSERT_TRUE(IsThere());
  // The round that it has asked for may see what comes next.
  std::this_thread::sleep_for(2 * Quota::kFruitlessPause);
  lease_.reset();
  quota_->MakeRoom(kChunk, RoomNeed::kCapacity);
  EXPECT_FALSE(IsThere());
}

TEST_F(QuotaTest, WhatCanNeverFitDoesNotHoldUpItsWriter) {
  lease_.reset();
  quota_->MakeRoom(used_ * 10, RoomNeed::kCapacity);
  EXPECT_FALSE(IsThere());
  EXPECT_LT(TimeOfRoomFor(used_ * 10), Quota::kRoomWaitMax);
}

TEST_F(QuotaTest, WhoWaitsIsLetGoAtTheEnd) {
  std::thread writer([this] { quota_->MakeRoom(kChunk, RoomNeed::kCapacity); });
  quota_->Stop();
  writer.join();
  EXPECT_TRUE(IsThere());
}

}  // namespace
}  // namespace sluice
