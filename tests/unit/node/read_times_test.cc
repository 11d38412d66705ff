// What a read's wait went into, and who hears of the chunks that come.

#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "node/blob_cache.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint32_t kChunk = kChunkSizeDefault;

class ReadTimesTest : public ::testing::Test, private ChunkObserver {
 protected:
  ReadTimesTest() {
    BlobCacheLimits limits;
    limits.readahead_mode = ReadaheadMode::kOff;
    limits.fetches_max[static_cast<size_t>(FetchClass::kDemand)] = 1;
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, io_, store_, verifier_, sources_, telemetry_, nullptr, {this}},
        limits);
    blob_ = *store_.Open({.digest = Digest(std::array<uint8_t, Digest::kBytes>{7}),
                          .size = 10 * kChunk,
                          .root = {},
                          .origins = {}});
  }

  // The place where what the read tells appears.
  using Times = std::shared_ptr<std::optional<ReadTimes>>;
  Times Read(uint32_t chunk, uint32_t count = 1) {
    auto times = std::make_shared<std::optional<ReadTimes>>();
    cache_->Read({.blob = blob_->key(),
                  .range = blob_->geometry().RangeOf(ChunkSpan{ChunkIndex(chunk), count}),
                  .deadline = clock_.now + seconds(30)},
                 [times](absl::StatusOr<ReadResult> result) {
                   if (result.ok()) *times = result->times;
                 });
    loop_.Run();
    return times;
  }
  void Pass(milliseconds time) { clock_.now += time; }
  void Settle() {
    while (loop_.Run() + io_.Run() > 0) {
    }
  }

  void Came(const Blob& blob, ChunkIndex index, std::optional<FetchClass> asked_as,
            SourceKind from) override {
    EXPECT_TRUE(blob.presence().IsPresent(index));
    came_.emplace_back(index.value(), asked_as);
    from_.push_back(from);
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor loop_{clock_}, io_{clock_};
  fakes::MemoryStore store_;
  fakes::FakeVerifier verifier_;
  fakes::FakeSource source_;
  FixedSources sources_{{{SourceRank::kOrigin, &source_}}};
  Telemetry telemetry_;
  std::shared_ptr<Blob> blob_;
  using CameList = std::vector<std::pair<uint32_t, std::optional<FetchClass>>>;
  CameList came_;
  std::vector<SourceKind> from_;  // what came
  std::unique_ptr<BlobCache> cache_;
};

TEST_F(ReadTimesTest, APresentChunkIsWaitedForByNobody) {
  blob_->presence().Set(ChunkIndex(3));
  const Times times = Read(3);
  ASSERT_TRUE(*times);
  EXPECT_EQ((*times)->queued + (*times)->answer + (*times)->wire + (*times)->verified + (*times)->stored,
            Duration(0));
  EXPECT_FALSE((*times)->foreseen);
}

TEST_F(ReadTimesTest, AWaitIsDividedIntoWhatItWentInto) {
  const Times first = Read(0), times = Read(1);
  ASSERT_EQ(source_.calls.size(), 1u) << "the other one waits for its slot";
  Pass(milliseconds(7));
  source_.Take().SendAll();
  Settle();
  ASSERT_TRUE(*first);
  EXPECT_EQ((*first)->answer, milliseconds(7));
  ASSERT_EQ(source_.calls.size(), 1u);
  Pass(milliseconds(20));
  source_.calls[0].request.progress->Add(100);
  Pass(milliseconds(10));
  source_.Take().SendAll();
  Pass(milliseconds(4));
  io_.Run();  // it is verified and written in one go
  Pass(milliseconds(3));
  Settle();
  ASSERT_TRUE(*times);
  EXPECT_EQ((*times)->queued, milliseconds(7));
  EXPECT_EQ((*times)->answer, milliseconds(20));
  EXPECT_EQ((*times)->wire, milliseconds(10));
  EXPECT_EQ((*times)->verified, milliseconds(4));
  EXPECT_EQ((*times)->stored, milliseconds(3));
  EXPECT_FALSE((*times)->foreseen);
  EXPECT_EQ(came_, (CameList{{0, FetchClass::kDemand}, {1, FetchClass::kDemand}}));
}

TEST_F(ReadTimesTest, WhatWasAskedForAheadOfAReaderIsForeseenAndItsTimeBeforeIsNoWait) {
  const FillId fill = cache_->Fill(
      {.blob = blob_->key(), .fetch_class = FetchClass::kHint, .chunks = {ChunkSpan{ChunkIndex(5), 1}}},
      [](const absl::Status&) {});
  Settle();
  ASSERT_EQ(source_.calls.size(), 1u);
  Pass(milliseconds(50));
  const Times times = Read(5);
  Pass(milliseconds(10));
  source_.Take().SendAll();
  Settle();
  ASSERT_TRUE(*times);
  EXPECT_EQ((*times)->queued, Duration(0));
  EXPECT_EQ((*times)->answer, milliseconds(10));
  EXPECT_TRUE((*times)->foreseen);
  EXPECT_EQ(came_, (CameList{{5, FetchClass::kHint}})) << "whatever it was raised to";
  EXPECT_EQ(from_, std::vector{SourceKind::kOrigin});
  cache_->StopFill(fill);
}

TEST_F(ReadTimesTest, WhoJoinsAnotherReaderHasForeseenNothing) {
  const Times first = Read(5);
  Pass(milliseconds(50));
  const Times second = Read(5);
  Pass(milliseconds(10));
  source_.Take().SendAll();
  Settle();
  ASSERT_TRUE(*first && *second);
  EXPECT_EQ((*first)->answer, milliseconds(60));
  EXPECT_EQ((*second)->answer, milliseconds(10));
  EXPECT_FALSE((*second)->foreseen);
}

TEST_F(ReadTimesTest, WhatComesUnaskedIsAllWire) {
  const Times times = Read(5);
  Pass(milliseconds(10));
  cache_->Offer(blob_, ChunkIndex(5), Buffer(kChunk), Evidence::kVerified, SourceKind::kPeer,
                [](const absl::Status&) {});
  Settle();
  ASSERT_TRUE(*times);
  EXPECT_EQ((*times)->wire, milliseconds(10));
  EXPECT_EQ(came_, (CameList{{5, std::nullopt}})) << "it was not asked of a source";
  EXPECT_EQ(from_, std::vector{SourceKind::kPeer});
}

}  // namespace
}  // namespace sluice
