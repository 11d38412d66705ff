#include "node/profile_replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kChunk = kChunkSizeDefault;

class ProfileReplayTest : public ::testing::Test {
 protected:
  ProfileReplayTest() {
    for (uint8_t name : {1, 2}) {
      std::array<uint8_t, 32> bytes{name};
      blobs_.push_back(
          *store_.Open({.digest = Digest(bytes), .size = 1000 * kChunk, .root = {}, .origins = {}}));
    }
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, io_, store_, verifier_, sources_, telemetry_, &bulk_},
        BlobCacheLimits{});
  }
  ~ProfileReplayTest() override { cache_.reset(); }

  void Settle() {
    while (loop_.Run() + io_.Run() > 0) {
    }
  }
  static ProfileSpan Span(uint32_t blob, uint32_t first, uint32_t count, uint32_t after_ms = 0) {
    return {blob, {ChunkIndex(first), count}, after_ms};
  }
  void Begin(std::vector<ProfileSpan> spans, ProfileReplay::Limits limits = {}) {
    replay_ = std::make_shared<ProfileReplay>(*cache_, telemetry_, blobs_,
                                              ImageProfile{1, std::move(spans), {}}, limits);
    replay_->Begin();
    Settle();
  }
  // What has been asked for and not answered, in order.
  std::vector<std::pair<const Blob*, ChunkSpan>> Asked() const {
    std::vector<std::pair<const Blob*, ChunkSpan>> asked;
    for (const auto& call : source_.calls) {
      if (!call.control->cancelled) asked.emplace_back(call.request.blob.get(), call.request.chunks);
    }
    return asked;
  }
  uint64_t AskedBytes() const {
    uint64_t bytes = 0;
    for (const auto& [blob, chunks] : Asked()) bytes += uint64_t{chunks.count} * kChunk;
    return bytes;
  }
  void AnswerAll() {
    while (!source_.calls.empty()) {
      source_.Take().SendAll();
      Settle();
    }
  }
  uint64_t Bytes(ProfileResult result) const {
    return telemetry_.profile_bytes[static_cast<size_t>(result)].value();
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor loop_{clock_}, io_{clock_};
  fakes::MemoryStore store_;
  fakes::FakeVerifier verifier_;
  fakes::FakeSource source_;
  FixedSources sources_{{{SourceRank::kOrigin, &source_}}};
  Telemetry telemetry_;
  fakes::FakeBulkLane bulk_;
  std::vector<std::shared_ptr<Blob>> blobs_;
  std::unique_ptr<BlobCache> cache_;
  std::shared_ptr<ProfileReplay> replay_;
};

TEST_F(ProfileReplayTest, WhatIsNeededFirstIsAskedForFirstAcrossBlobs) {
  Begin({Span(1, 7, 1), Span(0, 3, 2), Span(1, 900, 1)},
        {.under_way_bytes_max = kChunk, .unread_bytes_max = 64 << 20});
  ASSERT_THAT(Asked(), SizeIs(1));
  EXPECT_EQ(Asked()[0], std::pair(const_cast<const Blob*>(blobs_[1].get()), (ChunkSpan{ChunkIndex(7), 1})));
  source_.Take().SendAll();
  Settle();
  ASSERT_THAT(Asked(), SizeIs(1));
  EXPECT_EQ(Asked()[0], std::pair(const_cast<const Blob*>(blobs_[0].get()), (ChunkSpan{ChunkIndex(3), 2})));
  AnswerAll();
  EXPECT_TRUE(blobs_[1]->presence().IsPresent(ChunkIndex(900)));
  EXPECT_EQ(Bytes(ProfileResult::kFetched), 4u * kChunk);
  EXPECT_EQ(bulk_.joined, 0) << "the swarm brings whole blobs, and not what is needed next";
}

TEST_F(ProfileReplayTest, WhatIsPresentIsPassedOver) {
  for (uint32_t i : {1, 2, 4}) blobs_[0]->presence().Set(ChunkIndex(i));
  Begin({Span(0, 0, 6)});
  std::vector<ChunkSpan> asked;
  for (const auto& [blob, chunks] : Asked()) asked.push_back(chunks);
  EXPECT_THAT(asked, testing::ElementsAre(ChunkSpan{ChunkIndex(0), 1}, ChunkSpan{ChunkIndex(3), 1},
                                          ChunkSpan{ChunkIndex(5), 1}));
}

TEST_F(ProfileReplayTest, WhatIsNeededSoonAndLiesBesideComesWithIt) {
  Begin({Span(0, 10, 1), Span(0, 50, 1), Span(1, 11, 1), Span(0, 12, 2), Span(0, 11, 1), Span(0, 9, 1),
         Span(1, 51, 1)});
  const Blob* const first = blobs_[0].get();
  const Blob* const second = blobs_[1].get();
  EXPECT_THAT(Asked(), testing::ElementsAre(std::pair(first, (ChunkSpan{ChunkIndex(9), 5})),
                                            std::pair(first, (ChunkSpan{ChunkIndex(50), 1})),
                                            std::pair(second, (ChunkSpan{ChunkIndex(11), 1})),
                                            std::pair(second, (ChunkSpan{ChunkIndex(51), 1}))));
  AnswerAll();
  EXPECT_EQ(Bytes(ProfileResult::kFetched), 8u * kChunk) << "each once";
}

TEST_F(ProfileReplayTest, WhatIsNeededLaterWaitsForItsTurn) {
  Begin({Span(0, 10, 1), Span(0, 50, 1), Span(0, 11, 1)}, {.soon_bytes = 2 * kChunk});
  std::vector<ChunkSpan> asked;
  for (const auto& [blob, chunks] : Asked()) asked.push_back(chunks);
  EXPECT_THAT(asked, testing::ElementsAre(ChunkSpan{ChunkIndex(10), 1}, ChunkSpan{ChunkIndex(50), 1},
                                          ChunkSpan{ChunkIndex(11), 1}));
}

TEST_F(ProfileReplayTest, ARunEndsAtItsBoundAndAtWhatIsHere) {
  blobs_[0]->presence().Set(ChunkIndex(13));
  Begin({Span(0, 10, 8)}, {.run_bytes_max = 2 * kChunk});
  std::vector<ChunkSpan> asked;
  for (const auto& [blob, chunks] : Asked()) asked.push_back(chunks);
  EXPECT_THAT(asked, testing::ElementsAre(ChunkSpan{ChunkIndex(10), 2}, ChunkSpan{ChunkIndex(12), 1},
                                          ChunkSpan{ChunkIndex(14), 2}, ChunkSpan{ChunkIndex(16), 2}));
}

TEST_F(ProfileReplayTest, FewBytesAreUnderWayAtOnce) {
  std::vector<ProfileSpan> spans;
  for (uint32_t i = 0; i < 100; ++i) spans.push_back(Span(0, 3 * i, 1));
  Begin(std::move(spans));
  const uint64_t max = ProfileReplay::Limits{}.under_way_bytes_max;
  while (!source_.calls.empty()) {
    EXPECT_LE(AskedBytes(), max);
    source_.Take().SendAll();
    Settle();
  }
  EXPECT_EQ(Bytes(ProfileResult::kFetched), 100u * kChunk);
}

// A hostile profile: all of a large image, of which nothing is read.
TEST_F(ProfileReplayTest, WhatNobodyReadsHasABoundAndReadingMakesRoom) {
  Begin({Span(0, 0, 1000), Span(1, 0, 1000)}, {.unread_bytes_max = 32 * kChunk});
  AnswerAll();
  const uint64_t fetched = Bytes(ProfileResult::kFetched);
  EXPECT_GE(fetched, 32u * kChunk);
  EXPECT_LE(fetched, 32u * kChunk + ProfileReplay::Limits{}.run_bytes_max);
  replay_->Touched(0, {ChunkIndex(500), 10});
  Settle();
  EXPECT_THAT(Asked(), IsEmpty()) << "what was not brought in makes no room";
  replay_->Touched(0, {ChunkIndex(0), 10});
  Settle();
  AnswerAll();
  EXPECT_GT(Bytes(ProfileResult::kFetched), fetched);
  EXPECT_EQ(Bytes(ProfileResult::kUsed), 10u * kChunk);
  const uint64_t in_all = Bytes(ProfileResult::kFetched);
  replay_->End();
  EXPECT_EQ(Bytes(ProfileResult::kUnread), in_all - 10u * kChunk);
}

TEST_F(ProfileReplayTest, WhatAReaderWaitsForAlreadyIsNoAdvance) {
  replay_ = std::make_shared<ProfileReplay>(*cache_, telemetry_, blobs_, ImageProfile{1, {Span(0, 0, 2)}, {}},
                                            ProfileReplay::Limits{});
  replay_->Touched(0, {ChunkIndex(0), 1});
  replay_->Begin();
  Settle();
  AnswerAll();
  replay_->End();
  EXPECT_EQ(Bytes(ProfileResult::kUsed), 0u);
  EXPECT_EQ(Bytes(ProfileResult::kUnread), uint64_t{kChunk});
}

TEST_F(ProfileReplayTest, ItsEndCancelsWhatNobodyElseWants) {
  Begin({Span(0, 0, 1), Span(0, 5, 1)});
  cache_->Read({.blob = blobs_[0]->digest(),
                .range = {5 * kChunk, 1},
                .fetch_class = FetchClass::kDemand,
                .deadline = clock_.now + std::chrono::seconds(30)},
               [](absl::StatusOr<ReadResult>) {});
  Settle();
  replay_->End();
  Settle();
  ASSERT_THAT(Asked(), SizeIs(1));
  EXPECT_EQ(Asked()[0].second, (ChunkSpan{ChunkIndex(5), 1})) << "a reader waits for that";
  EXPECT_EQ(Bytes(ProfileResult::kUnread), 0u) << "nothing has come";
}

TEST_F(ProfileReplayTest, WhatCantBeHadEndsIt) {
  std::vector<ProfileSpan> spans;
  for (uint32_t i = 0; i < 100; ++i) spans.push_back(Span(0, 3 * i, 1));
  Begin(std::move(spans));
  source_.Take().Fail(absl::PermissionDeniedError("no right"));
  Settle();
  EXPECT_THAT(Asked(), IsEmpty());
}

TEST_F(ProfileReplayTest, WhatCantBeHadJustNowIsAskedForAgainWhenAReaderComes) {
  Begin({Span(0, 0, 1), Span(0, 5, 1), Span(0, 10, 1)}, {.under_way_bytes_max = 2 * kChunk});
  ASSERT_THAT(Asked(), SizeIs(2));
  source_.Take().Fail(absl::ResourceExhaustedError("429"));
  Settle();
  for (int i = 0; i < 100 && !source_.calls.empty(); ++i) {
    source_.Take().Fail(absl::UnavailableError("503"));
    clock_.now += std::chrono::seconds(1);
    Settle();
  }
  EXPECT_THAT(Asked(), IsEmpty()) << "no faster than readers come";
  EXPECT_EQ(Bytes(ProfileResult::kFetched), 0u);
  replay_->Touched(1, {ChunkIndex(0), 1});
  Settle();
  EXPECT_THAT(Asked(), SizeIs(2));
  AnswerAll();
  EXPECT_EQ(Bytes(ProfileResult::kFetched), 3 * kChunk);
  replay_->End();
  EXPECT_EQ(Bytes(ProfileResult::kUnread), 3 * kChunk);
}

TEST_F(ProfileReplayTest, SpansOutsideTheImageArePassedOver) {
  Begin({Span(7, 0, 1), Span(0, 1000, 5), Span(0, 999, 60000), Span(1, 65000, 1)});
  ASSERT_THAT(Asked(), SizeIs(1));
  EXPECT_EQ(Asked()[0].second, (ChunkSpan{ChunkIndex(999), 1}));
}

TEST_F(ProfileReplayTest, ItMayOutliveTheCache) {
  Begin({Span(0, 0, 1), Span(0, 5, 1)});
  cache_.reset();
  Settle();
  replay_->End();
}

}  // namespace
}  // namespace sluice
