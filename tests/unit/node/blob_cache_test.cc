#include "node/blob_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>

#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using fakes::FakeClock;
using fakes::FakeSource;
using fakes::FakeVerifier;
using fakes::ManualExecutor;
using fakes::MemoryStore;
using std::chrono::seconds;

constexpr uint32_t kChunk = kChunkSizeDefault;

class BlobCacheTest : public ::testing::Test {
 protected:
  BlobCacheTest() { Restart({}); }

  void Restart(BlobCacheLimits limits, std::vector<FixedSources::Source> sources = {}) {
    cache_.reset();
    if (sources.empty()) sources = {{SourceRank::kOrigin, &source_}};
    sources_ = std::make_unique<FixedSources>(sources);
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, io_, store_, verifier_, *sources_, telemetry_, &bulk_}, limits);
  }

  std::shared_ptr<Blob> AddBlob(uint64_t size, uint8_t name = 7) {
    std::array<uint8_t, 32> bytes{};
    bytes[0] = name;
    return *store_.Open(
        {.digest = Digest(bytes), .size = size, .chunk_size = kChunk, .root = {}, .origins = {}});
  }

  // The place where the answer of a read appears.
  using Result = std::shared_ptr<std::optional<absl::StatusOr<ReadResult>>>;
  Result Read(const Blob& blob, ByteRange range, FetchClass fetch_class = FetchClass::kDemand,
              Duration timeout = seconds(30)) {
    auto result = std::make_shared<std::optional<absl::StatusOr<ReadResult>>>();
    cache_->Read(
        {.blob = blob.digest(), .range = range, .fetch_class = fetch_class, .deadline = clock_.now + timeout},
        [result](absl::StatusOr<ReadResult> r) { *result = std::move(r); });
    Settle();
    return result;
  }
  Result ReadChunk(const Blob& blob, uint32_t index) { return Read(blob, {uint64_t{index} * kChunk, 1}); }

  void Settle() {
    while (loop_.Run() + io_.Run() > 0) {
    }
  }
  void Pass(Duration time) {
    clock_.now += time;
    Settle();
  }
  void Serve() {
    source_.Take().SendAll();
    Settle();
  }

  FakeClock clock_;
  ManualExecutor loop_{clock_}, io_{clock_};
  MemoryStore store_;
  FakeVerifier verifier_;
  FakeSource source_;
  Telemetry telemetry_;
  fakes::FakeBulkLane bulk_;
  std::unique_ptr<FixedSources> sources_;
  std::unique_ptr<BlobCache> cache_;
};

TEST_F(BlobCacheTest, AnswersPresentBytesWithoutAskingASource) {
  auto blob = AddBlob(10 * kChunk);
  blob->presence().Set(ChunkIndex(3));
  auto result = ReadChunk(*blob, 3);
  ASSERT_TRUE(result->has_value());
  EXPECT_EQ((*result)->value().source, SourceKind::kLocal);
  EXPECT_TRUE(source_.calls.empty());
}

TEST_F(BlobCacheTest, FetchesOnlyTheAbsentChunksOfARange) {
  auto blob = AddBlob(10 * kChunk);
  blob->presence().Set(ChunkIndex(1));
  auto result = Read(*blob, {0, 3 * kChunk});
  ASSERT_EQ(source_.calls.size(), 2u);
  EXPECT_EQ(source_.calls[0].request.chunks, (ChunkSpan{ChunkIndex(0), 1}));
  EXPECT_EQ(source_.calls[1].request.chunks, (ChunkSpan{ChunkIndex(2), 1}));
  Serve();
  EXPECT_FALSE(result->has_value());
  Serve();
  ASSERT_TRUE(result->has_value());
  EXPECT_EQ((*result)->value().source, SourceKind::kOrigin);
  EXPECT_EQ(telemetry_.read_bytes[static_cast<int>(SourceKind::kOrigin)].value(), 3u * kChunk);
}

TEST_F(BlobCacheTest, FiveHundredReadersOfOneColdChunkCostOneFetch) {
  auto blob = AddBlob(10 * kChunk);
  std::vector<Result> results;
  for (int i = 0; i < 500; ++i) results.push_back(ReadChunk(*blob, 4));
  ASSERT_EQ(source_.calls.size(), 1u);
  Serve();
  for (const Result& result : results) EXPECT_TRUE(result->has_value() && (*result)->ok());
  EXPECT_EQ(store_.commits, 1);
}

TEST_F(BlobCacheTest, ABadChunkIsFetchedOnceMoreAndThenRefused) {
  auto blob = AddBlob(10 * kChunk);
  verifier_.bad[ChunkIndex(2)] = 2;
  auto result = ReadChunk(*blob, 2);
  Serve();
  EXPECT_FALSE(result->has_value());
  ASSERT_EQ(source_.calls.size(), 1u);
  Serve();
  ASSERT_TRUE(result->has_value());
  EXPECT_TRUE(absl::IsDataLoss((*result)->status())) << (*result)->status();
  EXPECT_FALSE(blob->presence().IsPresent(ChunkIndex(2)));
  EXPECT_EQ(store_.commits, 0);
  EXPECT_EQ(telemetry_.verify_failures[static_cast<int>(SourceKind::kOrigin)].value(), 2u);
  EXPECT_TRUE(source_.calls.empty());
}

TEST_F(BlobCacheTest, AChunkThatAPeerSentWrongIsAskedOfTheRegistryBeforeOtherPeers) {
  FakeSource home(SourceKind::kPeer), holder(SourceKind::kPeer);
  Restart({}, {{SourceRank::kHome, &home}, {SourceRank::kHolder, &holder}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  verifier_.bad[ChunkIndex(2)] = 1;
  auto result = ReadChunk(*blob, 2);
  home.Take().SendAll();
  Settle();
  EXPECT_EQ(home.blamed.size(), 1u);
  EXPECT_TRUE(holder.calls.empty());
  ASSERT_EQ(source_.calls.size(), 1u);
  Serve();
  ASSERT_TRUE(result->has_value());
  EXPECT_TRUE((*result)->ok());
  EXPECT_EQ(source_.praised.size(), 1u) << "so it is known who is wrong";
  // The next one is nobody's fault.
  ReadChunk(*blob, 7);
  EXPECT_EQ(home.calls.size(), 1u);
  cache_.reset();
}

TEST_F(BlobCacheTest, AChunkInDoubtIsAskedOfTheRegistryAtOnce) {
  struct Doubting final : SourceDirectory {
    explicit Doubting(FixedSources& the_sources) : sources(the_sources) {}
    void Offers(const Blob& blob, ChunkSpan span, FetchClass fetch_class, Asker asker, const Grant& grant,
                std::vector<SourceOffer>* offers) override {
      sources.Offers(blob, span, fetch_class, asker, grant, offers);
    }
    bool IsInDoubt(const Blob&, ChunkIndex index) const override { return index == ChunkIndex(2); }
    void OnOffersChanged(absl::AnyInvocable<void(const Digest&)>) override {}
    FixedSources& sources;
  };
  FakeSource home(SourceKind::kPeer);
  FixedSources sources({{SourceRank::kHome, &home}, {SourceRank::kOrigin, &source_}});
  Doubting doubting(sources);
  cache_.reset();
  cache_ = std::make_unique<BlobCache>(
      BlobCache::Parts{clock_, loop_, io_, store_, verifier_, doubting, telemetry_, &bulk_},
      BlobCacheLimits{});
  auto blob = AddBlob(10 * kChunk);
  ReadChunk(*blob, 2);
  ReadChunk(*blob, 7);
  EXPECT_EQ(home.calls.size(), 1u);
  EXPECT_EQ(source_.calls.size(), 1u);
  EXPECT_EQ(source_.calls[0].request.chunks.first, ChunkIndex(2));
  cache_.reset();
}

TEST_F(BlobCacheTest, AChunkThatAPeerSentWrongAndNobodyElseGivesIsAskedOfTheOtherPeersAtLast) {
  FakeSource home(SourceKind::kPeer), holder(SourceKind::kPeer);
  Restart({}, {{SourceRank::kHome, &home}, {SourceRank::kHolder, &holder}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  verifier_.bad[ChunkIndex(2)] = 1;
  auto result = ReadChunk(*blob, 2);
  home.Take().SendAll();
  Settle();
  source_.Take().Fail(absl::UnavailableError("it is away"));
  Settle();
  source_.Take().Fail(absl::UnavailableError("it is away"));
  Settle();
  ASSERT_EQ(holder.calls.size(), 1u);
  holder.Take().SendAll();
  Settle();
  EXPECT_TRUE(result->has_value() && (*result)->ok());
  cache_.reset();
}

TEST_F(BlobCacheTest, AChunkThatIsBadOnceArrivesOnTheSecondTry) {
  auto blob = AddBlob(10 * kChunk);
  verifier_.bad[ChunkIndex(2)] = 1;
  auto result = ReadChunk(*blob, 2);
  Serve();
  Serve();
  EXPECT_TRUE(result->has_value() && (*result)->ok());
}

TEST_F(BlobCacheTest, AReaderGetsAnErrorAtItsDeadlineThoughTheSourceIsSilent) {
  auto blob = AddBlob(10 * kChunk);
  auto result = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(5));
  Pass(seconds(4));
  EXPECT_FALSE(result->has_value());
  Pass(seconds(1));
  ASSERT_TRUE(result->has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*result)->status()));
  EXPECT_EQ(telemetry_.read_errors.value(), 1u);
}

TEST_F(BlobCacheTest, ASourceThatIsAwayForSecondsCostsADemandReaderNoError) {
  auto blob = AddBlob(10 * kChunk);
  auto result = ReadChunk(*blob, 3);
  const Instant away_until = clock_.now + seconds(5);
  int asked = 0;
  while (clock_.now < away_until) {
    for (; !source_.calls.empty(); ++asked) {
      source_.Take().Fail(absl::UnavailableError("registry is down"));
      Settle();
    }
    EXPECT_FALSE(result->has_value());
    Pass(std::chrono::milliseconds(100));
  }
  EXPECT_LE(asked, 8) << "twice each time, after 0, 0.5, 1.5 and 3.5 s";
  auto joined = ReadChunk(*blob, 3);
  while (source_.calls.empty()) Pass(std::chrono::milliseconds(100));
  ASSERT_EQ(source_.calls.size(), 1u);
  Serve();
  EXPECT_TRUE(result->has_value() && (*result)->ok());
  EXPECT_TRUE(joined->has_value() && (*joined)->ok());
}

TEST_F(BlobCacheTest, ASourceThatStaysAwayGivesItsErrorByTheDeadlineAndIsAskedAnewAfterwards) {
  auto blob = AddBlob(10 * kChunk);
  auto result = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(5));
  const Instant deadline = clock_.now + seconds(5);
  while (!result->has_value() && clock_.now < deadline) {
    while (!source_.calls.empty()) {
      source_.Take().Fail(absl::UnavailableError("registry is down"));
      Settle();
    }
    Pass(std::chrono::milliseconds(100));
  }
  ASSERT_TRUE(result->has_value());
  EXPECT_GE(clock_.now, deadline - seconds(1)) << "it had time left";
  EXPECT_TRUE(absl::IsUnavailable((*result)->status())) << (*result)->status();
  EXPECT_TRUE(source_.calls.empty());
  result = Read(*blob, {0, 1});
  ASSERT_EQ(source_.calls.size(), 1u);
  Serve();
  EXPECT_TRUE((*result)->ok());
}

TEST_F(BlobCacheTest, WhatWaitingDoesNotMendIsToldAtOnce) {
  auto blob = AddBlob(10 * kChunk);
  auto result = ReadChunk(*blob, 0);
  source_.Take().Fail(absl::FailedPreconditionError("410 Gone"));
  Settle();
  ASSERT_TRUE(result->has_value());
  EXPECT_TRUE(absl::IsFailedPrecondition((*result)->status()));
}

TEST_F(BlobCacheTest, AChunkWhoseReaderHasFailedMeanwhileIsNotAskedForAgain) {
  auto blob = AddBlob(10 * kChunk);
  blob->presence().Set(ChunkIndex(1));
  auto result = Read(*blob, {0, 3 * kChunk});
  ASSERT_EQ(source_.calls.size(), 2u);
  FakeSource::Call away = source_.Take();
  FakeSource::Call absent = source_.Take();
  for (int i = 0; i < 2; ++i) {
    away.Fail(absl::UnavailableError("registry is down"));
    Settle();
    if (i == 0) away = source_.Take();
  }
  absent.Fail(absl::NotFoundError("404"));
  Settle();
  ASSERT_TRUE(result->has_value());
  EXPECT_TRUE(absl::IsNotFound((*result)->status()));
  Pass(seconds(1));
  EXPECT_TRUE(source_.calls.empty());
  result = ReadChunk(*blob, 0);
  EXPECT_EQ(source_.calls.size(), 1u) << "nothing is left of the pause";
}

TEST_F(BlobCacheTest, EachReaderHasItsOwnDeadline) {
  auto blob = AddBlob(10 * kChunk);
  auto first = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(5));
  auto second = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(50));
  const Instant last = clock_.now + seconds(50);
  Pass(seconds(5) - std::chrono::nanoseconds(1));
  EXPECT_FALSE(first->has_value());
  Pass(std::chrono::nanoseconds(1));
  ASSERT_TRUE(first->has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*first)->status()));
  EXPECT_FALSE(second->has_value());
  // The fetch was opened with the first reader's deadline and ends with it; the second reader gets a new one.
  source_.Take().Fail(absl::DeadlineExceededError("slow"));
  Settle();
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_EQ(source_.calls.front().request.deadline, last);
  Serve();
  EXPECT_TRUE(second->has_value() && (*second)->ok());
}

TEST_F(BlobCacheTest, TheLastSourcesErrorReachesTheReader) {
  FakeSource peer(SourceKind::kPeer);
  Restart({}, {{SourceRank::kHome, &peer}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto result = ReadChunk(*blob, 0);
  ASSERT_EQ(peer.calls.size(), 1u);
  peer.Take().Fail(absl::DataLossError("peer sent what was not asked for"));
  Settle();
  ASSERT_EQ(source_.calls.size(), 1u);
  source_.Take().Fail(absl::NotFoundError("404"));
  Settle();
  EXPECT_FALSE(result->has_value()) << "what failed once is asked once more";
  ASSERT_EQ(peer.calls.size(), 1u);
  peer.Take().Fail(absl::DataLossError("peer sent what was not asked for"));
  Settle();
  ASSERT_TRUE(result->has_value());
  EXPECT_EQ((*result)->status(), absl::NotFoundError("404"));
  EXPECT_TRUE(source_.calls.empty());
}

TEST_F(BlobCacheTest, WhatWasDeliveredBeforeAFailureIsKept) {
  auto blob = AddBlob(10 * kChunk);
  auto both = Read(*blob, {0, 2 * kChunk});
  FakeSource::Call call = source_.Take();
  call.Send(ChunkIndex(0));
  call.Fail(absl::UnavailableError("connection reset"));
  Settle();
  EXPECT_TRUE(blob->presence().IsPresent(ChunkIndex(0)));
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_EQ(source_.calls[0].request.chunks, (ChunkSpan{ChunkIndex(1), 1}));
  Serve();
  EXPECT_TRUE(both->has_value() && (*both)->ok());
}

TEST_F(BlobCacheTest, ASourceThatSaysItIsDoneWithoutDeliveringIsAnError) {
  auto blob = AddBlob(10 * kChunk);
  auto result = ReadChunk(*blob, 0);
  source_.Take().Fail(absl::OkStatus());
  Settle();
  source_.Take().Fail(absl::OkStatus());
  Settle();
  ASSERT_TRUE(result->has_value());
  EXPECT_FALSE((*result)->ok());
}

TEST_F(BlobCacheTest, AStoreThatCannotWriteFailsTheReader) {
  auto blob = AddBlob(10 * kChunk);
  store_.commit_error = absl::ResourceExhaustedError("no space left on device");
  auto result = ReadChunk(*blob, 0);
  Serve();
  Serve();
  ASSERT_TRUE(result->has_value());
  EXPECT_TRUE(absl::IsResourceExhausted((*result)->status()));
}

TEST_F(BlobCacheTest, RejectsWhatIsNotWithinABlob) {
  auto blob = AddBlob(10 * kChunk);
  const uint64_t size = 10 * kChunk;
  for (ByteRange range :
       {ByteRange{0, 0}, ByteRange{size, 1}, ByteRange{size - 1, 2}, ByteRange{1, UINT64_MAX}}) {
    auto result = Read(*blob, range);
    ASSERT_TRUE(result->has_value());
    EXPECT_TRUE(absl::IsOutOfRange((*result)->status())) << range.offset;
  }
  Blob unknown({.digest = Digest(), .size = 1, .root = {}, .origins = {}});
  EXPECT_TRUE(absl::IsNotFound((*Read(unknown, {0, 1}))->status()));
}

TEST_F(BlobCacheTest, ARefusedBlobIsNotServed) {
  auto blob = AddBlob(10 * kChunk);
  blob->presence().Set(ChunkIndex(0));
  blob->Refuse();
  EXPECT_TRUE(absl::IsDataLoss((*ReadChunk(*blob, 0))->status()));
  EXPECT_TRUE(source_.calls.empty());
}

TEST_F(BlobCacheTest, MoreReadersThanTheLimitAreRefused) {
  BlobCacheLimits limits;
  limits.reads_waiting_max = 2;
  Restart(limits);
  auto blob = AddBlob(10 * kChunk);
  ReadChunk(*blob, 0);
  ReadChunk(*blob, 5);
  auto third = ReadChunk(*blob, 9);
  ASSERT_TRUE(third->has_value());
  EXPECT_TRUE(absl::IsResourceExhausted((*third)->status()));
}

TEST_F(BlobCacheTest, SaysWhatItDoesAtThisMoment) {
  BlobCacheLimits limits;
  limits.fetches_max[0] = 4;  // one for each blob
  limits.readahead_mode = ReadaheadMode::kOff;
  Restart(limits);
  auto blob = AddBlob(100 * kChunk);
  ReadChunk(*blob, 7);
  Pass(seconds(2));
  Read(*blob, {40 * kChunk, 2 * kChunk});
  std::optional<CacheActivity> seen;
  cache_->Observe([&](CacheActivity activity) { seen = std::move(activity); });
  EXPECT_FALSE(seen.has_value());
  Settle();
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(seen->chunks[0].under_way, 1u);
  EXPECT_EQ(seen->chunks[0].queued, 2u);
  EXPECT_EQ(seen->inflight_bytes, kChunk);
  EXPECT_THAT(seen->under_way[blob->key()], ::testing::ElementsAre(ChunkIndex(7)));
  EXPECT_EQ(seen->reads_waiting, 2u);
  ASSERT_EQ(seen->reads.size(), 2u);
  EXPECT_EQ(seen->reads[0].range, (ByteRange{7 * kChunk, 1}));  // the one that waits longest
  EXPECT_EQ(seen->reads[0].waited, seconds(2));
  EXPECT_EQ(seen->reads[0].left, seconds(28));
  EXPECT_EQ(seen->reads[1].chunks_missing, 2u);
}

TEST_F(BlobCacheTest, CountsFetchesByClassAndWhatTheyHaveStillToBring) {
  BlobCacheLimits limits;
  limits.fill_flows.alone_max = Duration(0);
  Restart(limits);
  auto blob = AddBlob(100 * kChunk), other = AddBlob(100 * kChunk, 8);
  auto result = ReadChunk(*blob, 7);
  EXPECT_EQ(telemetry_.fetches[0].value(), 1u);
  EXPECT_EQ(telemetry_.fetches_under_way[0].value(), 1);
  EXPECT_EQ(telemetry_.fetch_inflight_bytes.value(), kChunk);
  EXPECT_EQ(telemetry_.chunks_wanted.value(), 1);
  cache_->Fill({.blob = other->digest()}, [](absl::Status) {});
  Settle();
  EXPECT_GE(telemetry_.fetches_under_way[static_cast<size_t>(FetchClass::kBackfill)].value(), 1);
  while (!source_.calls.empty()) Serve();
  EXPECT_TRUE(result->has_value());
  for (const Gauge& of_class : telemetry_.fetches_under_way) EXPECT_EQ(of_class.value(), 0);
  EXPECT_EQ(telemetry_.fetch_inflight_bytes.value(), 0);
  EXPECT_EQ(telemetry_.chunks_wanted.value(), 0);
  EXPECT_GE(telemetry_.fetches[static_cast<size_t>(FetchClass::kBackfill)].value(), 1u);
}

TEST_F(BlobCacheTest, OfManyReadersItShowsThoseThatWaitLongestAndCountsAll) {
  auto blob = AddBlob(10 * kChunk);
  for (size_t i = 0; i < CacheActivity::kReadsMax + 5; ++i) {
    ReadChunk(*blob, 4);
    Pass(std::chrono::milliseconds(1));
  }
  std::optional<CacheActivity> seen;
  cache_->Observe([&](CacheActivity activity) { seen = std::move(activity); });
  Settle();
  EXPECT_EQ(seen->reads_waiting, CacheActivity::kReadsMax + 5);
  ASSERT_EQ(seen->reads.size(), CacheActivity::kReadsMax);
  EXPECT_EQ(seen->reads.front().waited, std::chrono::milliseconds(CacheActivity::kReadsMax + 5));
  EXPECT_EQ(seen->reads.back().waited, std::chrono::milliseconds(6));
}

TEST_F(BlobCacheTest, WhatNobodyWaitsForIsNotCountedAmongTheReadsThatWait) {
  BlobCacheLimits limits;
  limits.reads_waiting_max = 1;
  Restart(limits);
  auto blob = AddBlob(100 * kChunk), other = AddBlob(100 * kChunk, 8);
  cache_->Fill({.blob = blob->digest()}, [](absl::Status) {});
  Settle();
  ASSERT_GE(source_.calls.size(), 1u);
  EXPECT_EQ(telemetry_.reads_waiting.value(), 0);
  auto first = ReadChunk(*other, 7);
  EXPECT_FALSE(first->has_value()) << (*first)->status();
  EXPECT_EQ(telemetry_.reads_waiting.value(), 1);
  auto second = ReadChunk(*other, 7);
  ASSERT_TRUE(second->has_value());
  EXPECT_TRUE(absl::IsResourceExhausted((*second)->status()));
  while (!source_.calls.empty() && !first->has_value()) Serve();
  EXPECT_TRUE(first->has_value() && (*first)->ok());
  EXPECT_EQ(telemetry_.reads_waiting.value(), 0);
}

TEST_F(BlobCacheTest, ADemandTakesAQueuedChunkOutOfTheBackfill) {
  BlobCacheLimits limits;
  limits.fill_flows.alone_max = Duration(0);
  limits.fetches_max[static_cast<size_t>(FetchClass::kBackfill)] = 1;
  Restart(limits);
  auto blob = AddBlob(64 * kChunk);
  Read(*blob, {0, 16 * kChunk}, FetchClass::kBackfill);
  auto filling = Read(*blob, {16 * kChunk, 16 * kChunk}, FetchClass::kBackfill);
  ASSERT_EQ(source_.calls.size(), 1u);
  auto demand = ReadChunk(*blob, 20);
  ASSERT_EQ(source_.calls.size(), 2u);
  EXPECT_EQ(source_.calls[1].request.fetch_class, FetchClass::kDemand);
  EXPECT_EQ(source_.calls[1].request.chunks, (ChunkSpan{ChunkIndex(20), 1}));
  Serve();  // the first backfill, so that the second starts: without chunk 20, in two parts
  Serve();  // the demand
  EXPECT_TRUE(demand->has_value());
  int chunks = 0;
  while (!source_.calls.empty()) {
    chunks += static_cast<int>(source_.calls.front().request.chunks.count);
    Serve();
  }
  EXPECT_EQ(chunks, 15);
  EXPECT_TRUE(filling->has_value() && (*filling)->ok());
}

TEST_F(BlobCacheTest, SequentialDemandIsAmplifiedAndRandomIsNot) {
  auto blob = AddBlob(200 * kChunk);
  for (uint32_t index : {100u, 20u, 60u, 150u}) {
    ReadChunk(*blob, index);
    ASSERT_EQ(source_.calls.size(), 1u);
    Serve();
  }
  ReadChunk(*blob, 0);
  Serve();
  ReadChunk(*blob, 1);
  ASSERT_EQ(source_.calls.size(), 2u);
  EXPECT_EQ(source_.calls[1].request.fetch_class, FetchClass::kReadahead);
  EXPECT_EQ(source_.calls[1].request.chunks.first, ChunkIndex(2));
}

TEST_F(BlobCacheTest, WhatFollowsALoneDemandComesWithItWhereARoundTripIsLong) {
  const auto far_away = [&](FakeSource& source) {
    FakeSource::Call call = source.Take();
    Pass(std::chrono::milliseconds(40));
    call.request.progress->Add(1);
    Pass(std::chrono::milliseconds(8));
    call.SendAll();
    Settle();
  };
  auto blob = AddBlob(400 * kChunk);
  for (const uint32_t index : {100u, 21u, 63u, 157u}) {
    ReadChunk(*blob, index);
    ASSERT_EQ(source_.calls.size(), 1u) << "how long a trip is, is not known";
    far_away(source_);
  }
  ReadChunk(*blob, 200);
  ASSERT_EQ(source_.calls.size(), 2u);
  EXPECT_EQ(source_.calls[0].request.chunks, (ChunkSpan{ChunkIndex(200), 1}));
  EXPECT_EQ(source_.calls[1].request.chunks, (ChunkSpan{ChunkIndex(201), Amplifier::kExtrasMax}));
  EXPECT_EQ(source_.calls[1].request.fetch_class, FetchClass::kReadahead);
  Serve();
  Serve();
  ChunkSet touched(400);
  for (const uint32_t index : {100u, 200u, 202u, 399u}) touched.Add(ChunkIndex(index));
  cache_->NoteTouched(blob->digest(), touched);
  cache_->NoteTouched(Digest(std::array<uint8_t, 32>{77}), touched);  // there is none
  Settle();
  EXPECT_EQ(telemetry_.readahead_bytes[static_cast<size_t>(ReadaheadResult::kUsed)].value(), kChunk);

  FakeSource home(SourceKind::kPeer);
  Restart({}, {{SourceRank::kHome, &home}, {SourceRank::kOrigin, &source_}});
  auto shared = AddBlob(400 * kChunk, 2);
  for (const uint32_t index : {100u, 21u, 63u, 157u, 205u, 333u}) {
    ReadChunk(*shared, index);
    EXPECT_EQ(home.calls.size(), 1u) << "another node would fetch it for this one";
    far_away(home);
  }
  cache_.reset();
}

TEST_F(BlobCacheTest, NothingIsReadAheadWhereThatHasEnded) {
  auto blob = AddBlob(100 * kChunk);
  cache_->SetReadahead(BlobCache::Readahead::kEnded);
  const auto read = [&](uint32_t chunk) {
    ReadChunk(*blob, chunk);
    const size_t asked = source_.calls.size();
    while (!source_.calls.empty()) source_.Take().SendAll();
    Settle();
    return asked;
  };
  for (uint32_t chunk = 0; chunk < 8; ++chunk) EXPECT_EQ(read(chunk), 1u) << chunk;
  EXPECT_EQ(blob->presence().present_count(), 8u);
  cache_->SetReadahead(BlobCache::Readahead::kAllowed);
  for (uint32_t chunk = 8; chunk < 16; ++chunk) read(chunk);
  EXPECT_GT(blob->presence().present_count(), 16u);
}

TEST_F(BlobCacheTest, AReaderJoinsAReadaheadThatIsUnderWay) {
  auto blob = AddBlob(200 * kChunk);
  ReadChunk(*blob, 0);
  Serve();
  ReadChunk(*blob, 1);
  ASSERT_EQ(source_.calls.size(), 2u);
  Serve();
  auto joined = ReadChunk(*blob, 2);
  EXPECT_FALSE(joined->has_value());
  for (const auto& call : source_.calls) {
    EXPECT_FALSE(call.request.fetch_class == FetchClass::kDemand) << "chunk 2 was asked for twice";
  }
  Serve();
  EXPECT_TRUE(joined->has_value());
}

TEST_F(BlobCacheTest, AFillBringsInTheWholeBlobWithFewFetchesUnderWay) {
  auto blob = AddBlob(100 * kChunk + 5);
  std::optional<absl::Status> filled;
  cache_->Fill({.blob = blob->digest(), .fetch_class = FetchClass::kBackfill},
               [&](absl::Status status) { filled = status; });
  Settle();
  size_t under_way_max = 0;
  while (!source_.calls.empty()) {
    under_way_max = std::max(under_way_max, source_.calls.size());
    EXPECT_EQ(source_.calls.front().request.fetch_class, FetchClass::kBackfill);
    Serve();
  }
  ASSERT_TRUE(filled.has_value());
  EXPECT_TRUE(filled->ok());
  EXPECT_TRUE(blob->presence().complete());
  EXPECT_LE(under_way_max, 2u);
  EXPECT_EQ(blob->lease_count(), 0u);
}

TEST_F(BlobCacheTest, AFillOfAHigherClassDoesNotQueueBehindStalledOnes) {
  for (uint8_t name = 1; name <= 3; ++name) {
    cache_->Fill({.blob = AddBlob(100 * kChunk, name)->digest()}, [](absl::Status) {});
  }
  Settle();
  const size_t stalled = source_.calls.size();
  ASSERT_EQ(stalled, BlobCacheLimits().fetches_max[static_cast<size_t>(FetchClass::kBackfill)] / 2);
  auto blob = AddBlob(2 * kChunk);
  std::optional<absl::Status> filled;
  cache_->Fill({.blob = blob->digest(), .fetch_class = FetchClass::kHint},
               [&](absl::Status status) { filled = status; });
  Settle();
  ASSERT_EQ(source_.calls.size(), stalled + 1);
  source_.calls.back().SendAll();
  Settle();
  EXPECT_TRUE(filled.has_value() && filled->ok());
}

TEST_F(BlobCacheTest, AFillThatFailsSaysWhy) {
  auto blob = AddBlob(10 * kChunk);
  std::optional<absl::Status> filled;
  cache_->Fill({.blob = blob->digest(), .fetch_class = FetchClass::kBackfill},
               [&](absl::Status status) { filled = status; });
  Settle();
  while (!source_.calls.empty()) {
    source_.Take().Fail(absl::UnavailableError("registry is down"));
    Settle();
  }
  ASSERT_TRUE(filled.has_value());
  EXPECT_TRUE(absl::IsUnavailable(*filled));
}

TEST_F(BlobCacheTest, EveryReadIsAnsweredWhenTheCacheGoesAway) {
  auto blob = AddBlob(10 * kChunk);
  auto result = ReadChunk(*blob, 0);
  std::optional<absl::Status> filled;
  cache_->Fill({.blob = blob->digest(), .fetch_class = FetchClass::kBackfill},
               [&](absl::Status status) { filled = status; });
  Settle();
  cache_.reset();
  ASSERT_TRUE(result->has_value());
  EXPECT_TRUE(absl::IsCancelled((*result)->status()));
  ASSERT_TRUE(filled.has_value());
  source_.Take().SendAll();  // too late, and harmless
  Settle();
}

TEST_F(BlobCacheTest, InflightBytesBoundWhatIsNotDemanded) {
  BlobCacheLimits limits;
  limits.inflight_bytes_max = 32 * kChunk;
  limits.fetch_bytes_max = 2 * kChunk;
  limits.fetches_max[static_cast<size_t>(FetchClass::kBackfill)] = 100;
  Restart(limits);
  auto blob = AddBlob(64 * kChunk);
  Read(*blob, {0, 32 * kChunk}, FetchClass::kBackfill);
  const auto asked = [&](FetchClass fetch_class) {
    uint32_t chunks = 0;
    for (const FakeSource::Call& call : source_.calls)
      if (call.request.fetch_class == fetch_class) chunks += call.request.chunks.count;
    return chunks;
  };
  EXPECT_EQ(asked(FetchClass::kBackfill), 4u) << "an eighth";
  Serve();
  EXPECT_EQ(asked(FetchClass::kBackfill), 4u) << "the next in place of what came";
  auto demand = ReadChunk(*blob, 60);
  EXPECT_EQ(asked(FetchClass::kDemand), 1u);
}

// What an offer came to.
using Outcome = std::shared_ptr<std::optional<absl::Status>>;

class OfferTest : public BlobCacheTest {
 protected:
  Outcome Offer(const std::shared_ptr<Blob>& blob, uint32_t index, Evidence evidence = Evidence::kVerified) {
    auto outcome = std::make_shared<std::optional<absl::Status>>();
    Buffer bytes(blob->geometry().RangeOf(ChunkIndex(index)).length);
    std::memset(bytes.data(), 1, bytes.size());
    cache_->Offer(blob, ChunkIndex(index), std::move(bytes), evidence, SourceKind::kPeer,
                  [outcome](absl::Status status) { *outcome = std::move(status); });
    return outcome;
  }
};

TEST_F(OfferTest, AnOfferedChunkIsPresentAndAnswersWhoWaitsForIt) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  auto offered = Offer(blob, 3);
  Settle();
  EXPECT_TRUE((*offered)->ok());
  EXPECT_TRUE(blob->presence().IsPresent(ChunkIndex(3)));
  ASSERT_TRUE(read->has_value());
  EXPECT_EQ((**read)->source, SourceKind::kPeer);
  // The fetch that was under way for it comes too late and harms nothing.
  Serve();
  EXPECT_TRUE(ReadChunk(*blob, 3)->value().ok());
  EXPECT_TRUE(source_.calls.empty());
}

TEST_F(OfferTest, WhatNobodyHasVerifiedIsVerifiedHere) {
  auto blob = AddBlob(10 * kChunk);
  verifier_.bad[ChunkIndex(3)] = 1;
  auto read = ReadChunk(*blob, 3);
  auto offered = Offer(blob, 3, Evidence::kUnverified);
  Settle();
  EXPECT_TRUE(absl::IsDataLoss(**offered));
  EXPECT_FALSE(blob->presence().IsPresent(ChunkIndex(3)));
  EXPECT_EQ(telemetry_.verify_failures[static_cast<int>(SourceKind::kPeer)].value(), 1u);
  EXPECT_FALSE(read->has_value());  // its own fetch goes on
  Serve();
  EXPECT_TRUE((*read)->ok());
}

TEST_F(OfferTest, WhatCantBeStoredIsNotTakenForThere) {
  auto blob = AddBlob(10 * kChunk);
  store_.commit_errors = {absl::ResourceExhaustedError("the disk is full")};
  auto read = ReadChunk(*blob, 3);
  auto offered = Offer(blob, 3);
  Settle();
  EXPECT_TRUE(absl::IsResourceExhausted(**offered));
  EXPECT_FALSE(blob->presence().IsPresent(ChunkIndex(3)));
  EXPECT_FALSE(read->has_value());  // its own fetch goes on
  Serve();
  EXPECT_TRUE((*read)->ok());
}

TEST_F(OfferTest, OffersBeyondTheBoundAreRefusedAndOneIsAlwaysTaken) {
  Restart({.offer_bytes_max = kChunk / 2});
  auto blob = AddBlob(10 * kChunk);
  auto first = Offer(blob, 0), second = Offer(blob, 1);
  Settle();
  EXPECT_TRUE((*first)->ok());
  EXPECT_TRUE(absl::IsResourceExhausted(**second));
  auto third = Offer(blob, 1);
  Settle();
  EXPECT_TRUE((*third)->ok());
}

TEST_F(OfferTest, AnOfferOfAnotherLengthIsRefused) {
  auto blob = AddBlob(10 * kChunk);
  for (const uint32_t index : {9u, 10u}) {
    auto outcome = std::make_shared<std::optional<absl::Status>>();
    cache_->Offer(blob, ChunkIndex(index), Buffer(kChunk - 1), Evidence::kVerified, SourceKind::kPeer,
                  [outcome](absl::Status status) { *outcome = std::move(status); });
    Settle();
    EXPECT_TRUE(absl::IsInvalidArgument(**outcome));
  }
}

TEST_F(OfferTest, AFillLeavesToTheBulkLaneWhatThatCarries) {
  auto blob = AddBlob(4 * kChunk);
  bulk_.carried = {ChunkIndex(0), ChunkIndex(2)};
  std::optional<absl::Status> filled;
  cache_->Fill({.blob = blob->digest(), .fetch_class = FetchClass::kBackfill},
               [&](absl::Status status) { filled = std::move(status); });
  Settle();
  EXPECT_EQ(bulk_.joined, 1);
  std::vector<uint32_t> asked;
  while (!source_.calls.empty()) {
    asked.push_back(source_.calls.front().request.chunks.first.value());
    EXPECT_EQ(source_.calls.front().request.chunks.count, 1u);
    Serve();
  }
  EXPECT_EQ(asked, (std::vector<uint32_t>{1, 3}));
  EXPECT_FALSE(filled.has_value());
  Offer(blob, 0);
  Pass(seconds(1));
  EXPECT_FALSE(filled.has_value());
  // The lane makes no progress with the last one: the fill takes it.
  bulk_.carried.clear();
  Pass(seconds(1));
  Serve();
  ASSERT_TRUE(filled.has_value());
  EXPECT_TRUE(filled->ok());
  EXPECT_EQ(bulk_.left, 1);
  EXPECT_EQ(bulk_.committed.size(), 4u);
}

TEST_F(OfferTest, AFillThatLeftChunksToTheBulkLaneCanBeStopped) {
  auto blob = AddBlob(2 * kChunk);
  bulk_.carried = {ChunkIndex(0), ChunkIndex(1)};
  std::optional<absl::Status> filled, again;
  const FillId fill = cache_->Fill({.blob = blob->digest(), .fetch_class = FetchClass::kBackfill},
                                   [&](absl::Status status) { filled = std::move(status); });
  Settle();
  cache_->StopFill(fill);
  cache_->Fill({.blob = blob->digest(), .fetch_class = FetchClass::kBackfill},
               [&](absl::Status status) { again = std::move(status); });
  Pass(seconds(1));
  ASSERT_TRUE(filled.has_value());
  EXPECT_TRUE(absl::IsCancelled(*filled));
  EXPECT_FALSE(again.has_value());
  EXPECT_EQ(blob->lease_count(), 1u);
  cache_.reset();
  EXPECT_TRUE(absl::IsCancelled(*again));
}

// ------------------------------------------------------------------------------------------- many sources

class ManySourcesTest : public BlobCacheTest {
 protected:
  ManySourcesTest() {
    Restart({},
            {{SourceRank::kHome, &home_}, {SourceRank::kHolder, &holder_}, {SourceRank::kOrigin, &source_}});
  }
  Result ReadAs(Asker asker, const Blob& blob, uint32_t index, Grant grant = nullptr) {
    auto result = std::make_shared<std::optional<absl::StatusOr<ReadResult>>>();
    cache_->Read({.blob = blob.digest(),
                  .range = {uint64_t{index} * kChunk, 1},
                  .deadline = clock_.now + seconds(30),
                  .asker = asker,
                  .grant = std::move(grant)},
                 [result](absl::StatusOr<ReadResult> r) { *result = std::move(r); });
    Settle();
    return result;
  }
  FakeSource home_{SourceKind::kPeer}, holder_{SourceKind::kPeer};
};

TEST_F(ManySourcesTest, AThirdSourceIsAskedAfterTwoThatLackTheChunk) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  home_.Take().Fail(absl::NotFoundError("lacks it"));
  Settle();
  holder_.Take().Fail(absl::NotFoundError("lacks it"));
  Settle();
  Serve();
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE((*read)->ok()) << (*read)->status();
}

TEST_F(ManySourcesTest, ASilentSourceIsTakenOverAndTheLoserIsCancelled) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  ASSERT_EQ(home_.calls.size(), 1u);
  Pass(std::chrono::milliseconds(1499));
  EXPECT_TRUE(holder_.calls.empty());
  Pass(std::chrono::milliseconds(1));
  ASSERT_EQ(holder_.calls.size(), 1u);
  EXPECT_EQ(telemetry_.takeovers[static_cast<size_t>(TakeoverReason::kSilent)].value(), 1u);
  EXPECT_FALSE(home_.calls.front().control->cancelled);
  holder_.Take().SendAll();
  Settle();
  ASSERT_TRUE(read->has_value() && (*read)->ok());
  EXPECT_TRUE(home_.calls.front().control->cancelled);
  FakeSource::Call late = home_.Take();
  late.SendAll();  // it had been on its way
  Settle();
  EXPECT_EQ(store_.commits, 1);
}

TEST_F(ManySourcesTest, ASourceOfWhichBytesComeIsNotTakenOver) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  for (int i = 0; i < 50; ++i) {
    home_.calls.front().request.progress->Add(1000);
    Pass(std::chrono::milliseconds(200));
  }
  EXPECT_TRUE(holder_.calls.empty());
  Pass(seconds(2));
  EXPECT_EQ(holder_.calls.size(), 1u);
}

TEST_F(ManySourcesTest, AChunkHasTwoLegsAndNoMore) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  for (int i = 0; i < 10; ++i) {
    Pass(seconds(1));
    if (!holder_.calls.empty()) holder_.calls.front().request.progress->Add(1);
  }
  EXPECT_EQ(home_.calls.size(), 1u);
  EXPECT_EQ(holder_.calls.size(), 1u);
  EXPECT_TRUE(source_.calls.empty());
  EXPECT_FALSE(home_.calls.front().control->cancelled);
}

TEST_F(ManySourcesTest, AThirdSourceIsAskedInPlaceOfOneOfTwoThatAreSilent) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  Pass(std::chrono::milliseconds(1500));
  ASSERT_EQ(holder_.calls.size(), 1u);
  Pass(std::chrono::milliseconds(1499));
  EXPECT_TRUE(source_.calls.empty());
  Pass(std::chrono::milliseconds(1));
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_TRUE(home_.calls.front().control->cancelled) << "it has been silent for longer";
  EXPECT_FALSE(holder_.calls.front().control->cancelled);
  Serve();
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE((*read)->ok()) << (*read)->status();
  EXPECT_TRUE(holder_.calls.front().control->cancelled);
}

TEST_F(ManySourcesTest, WhatOneThatWasDroppedSendsAllTheSameIsTaken) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  for (int i = 0; i < 30; ++i) Pass(std::chrono::milliseconds(100));
  ASSERT_EQ(source_.calls.size(), 1u);
  FakeSource::Call dropped = home_.Take();
  ASSERT_TRUE(dropped.control->cancelled);
  dropped.SendAll();  // it had been on its way
  Settle();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
  EXPECT_TRUE(source_.calls.front().control->cancelled);
}

TEST_F(ManySourcesTest, AReaderOfSourcesThatAreAllSilentIsAnsweredAtItsDeadline) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  for (int i = 0; i < 299; ++i) Pass(std::chrono::milliseconds(100));
  EXPECT_FALSE(read->has_value());
  EXPECT_EQ(home_.calls.size() + holder_.calls.size() + source_.calls.size(), 3u) << "each once";
  Pass(std::chrono::milliseconds(100));
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*read)->status())) << (*read)->status();
}

TEST_F(ManySourcesTest, AReadOfAnotherNodeWaitsForNoThirdInPlaceOfOneThatWasSilent) {
  auto blob = AddBlob(10 * kChunk);
  auto peer = ReadAs(Asker::kPeer, *blob, 3);
  ASSERT_EQ(holder_.calls.size(), 1u);
  auto local = ReadChunk(*blob, 3);
  for (int i = 0; i < 100; ++i) Pass(std::chrono::milliseconds(100));
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_TRUE(home_.calls.empty());
  EXPECT_EQ(source_.calls.front().request.asker, Asker::kPeer);
}

TEST_F(ManySourcesTest, AReadOfAnotherNodeIsRefusedWhereNodesAloneAreLeftInPlaceOfTheOrigin) {
  // The registry's own rank is the first here, so that a node takes its place.
  Restart({}, {{SourceRank::kHome, &source_},
               {SourceRank::kStandIn, &home_},
               {SourceRank::kSecondStandIn, &holder_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  Pass(std::chrono::milliseconds(1500));
  ASSERT_EQ(home_.calls.size(), 1u);
  auto peer = ReadAs(Asker::kPeer, *blob, 3);
  EXPECT_FALSE(peer->has_value()) << "the registry is asked for it";
  Pass(std::chrono::milliseconds(1500));
  ASSERT_TRUE(source_.calls.front().control->cancelled);
  ASSERT_EQ(holder_.calls.size(), 1u);
  ASSERT_TRUE(peer->has_value());
  EXPECT_TRUE(absl::IsNotFound((*peer)->status())) << (*peer)->status();
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(local->has_value() && (*local)->ok());
}

TEST_F(ManySourcesTest, ARuntimeWaitsForOtherNodesWhereAnotherNodesReadIsRefused) {
  // The registry's own rank is the first here, so that a node takes its place.
  Restart({}, {{SourceRank::kHome, &source_},
               {SourceRank::kStandIn, &home_},
               {SourceRank::kSecondStandIn, &holder_}});
  auto blob = AddBlob(10 * kChunk);
  auto runtime = ReadAs(Asker::kRuntime, *blob, 3);
  Pass(std::chrono::milliseconds(1500));
  auto peer = ReadAs(Asker::kPeer, *blob, 3);
  Pass(std::chrono::milliseconds(1500));
  ASSERT_TRUE(peer->has_value());
  EXPECT_TRUE(absl::IsNotFound((*peer)->status())) << (*peer)->status();
  EXPECT_FALSE(runtime->has_value());
  ASSERT_EQ(holder_.calls.size(), 1u);
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(runtime->has_value() && (*runtime)->ok());
}

TEST_F(ManySourcesTest, WhatARuntimePullsIsNotCountedAsRead) {
  auto blob = AddBlob(10 * kChunk);
  auto pulled = ReadAs(Asker::kRuntime, *blob, 3);
  EXPECT_EQ(home_.calls.front().request.fetch_class, FetchClass::kDemand);
  home_.Take().SendAll();
  Settle();
  ASSERT_TRUE(pulled->has_value() && (*pulled)->ok());
  EXPECT_TRUE(home_.calls.empty()) << "nothing is read ahead of it";
  auto late = ReadAs(Asker::kRuntime, *blob, 7);
  Pass(seconds(30));
  ASSERT_TRUE(late->has_value());
  EXPECT_FALSE((*late)->ok());
  for (const Counter& reads : telemetry_.reads) EXPECT_EQ(reads.value(), 0u);
  EXPECT_EQ(telemetry_.read_errors.value(), 0u);
}

TEST_F(ManySourcesTest, ALegThatIsSilentCountsOnceAgainstItsSource) {
  FakeSource first{SourceKind::kPeer}, second{SourceKind::kPeer};
  Restart({}, {{SourceRank::kHolder, &first}, {SourceRank::kHolder, &second}});
  auto blob = AddBlob(64 * kChunk);
  int asked_first = 0;
  for (const uint32_t chunk : {40, 31, 20, 12, 0}) {
    // Its chunks are not all late alike: the middle one has come by another way.
    auto read = Read(*blob, {uint64_t{chunk} * kChunk, 5 * kChunk});
    if (first.calls.empty()) break;
    ++asked_first;
    FakeSource::Call silent = first.Take();
    cache_->Offer(blob, ChunkIndex(chunk + 2), Buffer(kChunk), Evidence::kVerified, SourceKind::kPeer,
                  [](absl::Status) {});
    Settle();
    for (int look = 0; look < 20; ++look) Pass(std::chrono::milliseconds(100));
    ASSERT_EQ(second.calls.size(), 2u);
    while (!second.calls.empty()) second.Take().SendAll();
    Settle();
    ASSERT_TRUE(read->has_value() && (*read)->ok());
    silent.Fail(absl::CancelledError("nobody wants it any more"));
    Settle();
  }
  EXPECT_EQ(asked_first, 3);
}

TEST_F(ManySourcesTest, FillsThatWaitForTheirTurnHereAreNoSilenceOfTheirSource) {
  FakeSource first{SourceKind::kPeer}, second{SourceKind::kPeer};
  Restart({}, {{SourceRank::kHolder, &first}, {SourceRank::kHolder, &second}});
  const auto fill = [&](uint8_t name) {
    cache_->Fill({.blob = AddBlob(kChunk, name)->digest(), .fetch_class = FetchClass::kBackfill},
                 [](absl::Status) {});
    Settle();
  };
  for (uint8_t name = 1; name <= 3; ++name) fill(name);
  ASSERT_EQ(first.calls.size(), 3u);
  for (int look = 0; look < 30; ++look) Pass(std::chrono::milliseconds(100));
  fill(4);
  EXPECT_EQ(first.calls.size(), 4u) << "it has not failed";
  EXPECT_TRUE(second.calls.empty());
}

TEST_F(ManySourcesTest, WhenOneOfTwoLegsFailsTheOtherGoesOnAlone) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  Pass(seconds(2));
  holder_.Take().Fail(absl::UnavailableError("reset"));
  Settle();
  EXPECT_TRUE(source_.calls.empty());
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
}

TEST_F(ManySourcesTest, AReadOfAnotherNodeIsAskedByOwnRightAlone) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadAs(Asker::kPeer, *blob, 3);
  EXPECT_TRUE(home_.calls.empty());
  ASSERT_EQ(holder_.calls.size(), 1u);
  EXPECT_EQ(holder_.calls.front().request.asker, Asker::kPeer);
}

TEST_F(ManySourcesTest, AReadOfAnotherNodeNeverWaitsForWhatWasAskedOfAThird) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  ASSERT_EQ(home_.calls.size(), 1u);
  auto peer = ReadAs(Asker::kPeer, *blob, 3);
  ASSERT_EQ(holder_.calls.size(), 1u) << "a second leg by its own right";
  EXPECT_FALSE(peer->has_value());
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(peer->has_value() && (*peer)->ok());
  EXPECT_TRUE(local->has_value() && (*local)->ok());
}

// A node of this zone waits for homes, and never for what was asked of one that fetches for the zone.
TEST_F(ManySourcesTest, AReadOfTheZoneWaitsForHomesAndNotForTheZones) {
  FakeSource zone(SourceKind::kPeer);
  Restart({}, {{SourceRank::kZoneHome, &zone},
               {SourceRank::kHome, &home_},
               {SourceRank::kHolder, &holder_},
               {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  ASSERT_EQ(zone.calls.size(), 1u);
  auto of_zone = ReadAs(Asker::kZone, *blob, 3);
  ASSERT_EQ(home_.calls.size(), 1u) << "a second leg, of the home";
  EXPECT_EQ(home_.calls.front().request.asker, Asker::kZone);
  auto second = ReadAs(Asker::kZone, *blob, 3);
  EXPECT_EQ(home_.calls.size(), 1u) << "which the next waits for, too";
  EXPECT_FALSE(of_zone->has_value());
  home_.Take().SendAll();
  Settle();
  for (const Result& read : {local, of_zone, second}) EXPECT_TRUE(read->has_value() && (*read)->ok());

  // What was asked of a home is waited for by the zone, and by no other node.
  auto alone = ReadAs(Asker::kZone, *blob, 4);
  EXPECT_EQ(zone.calls.size(), 1u) << "no zone is asked by the zone's right";
  ASSERT_EQ(home_.calls.size(), 1u);
  auto peer = ReadAs(Asker::kPeer, *blob, 4);
  ASSERT_EQ(holder_.calls.size(), 1u) << "a leg by own right";
  // Where that fails, the node is told; who is of the zone waits on.
  holder_.Take().Fail(absl::NotFoundError("lacks it"));
  Settle();
  ASSERT_EQ(source_.calls.size(), 1u);
  source_.Take().Fail(absl::NotFoundError("lacks it"));
  Settle();
  ASSERT_TRUE(peer->has_value());
  EXPECT_FALSE((*peer)->ok());
  EXPECT_FALSE(alone->has_value());
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(alone->has_value() && (*alone)->ok());
}

TEST_F(ManySourcesTest, AReadOfTheZoneIsRefusedAtOnceWhereOnlyTheZoneIsAsked) {
  FakeSource zone(SourceKind::kPeer);
  Restart({}, {{SourceRank::kZoneHome, &zone}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  auto joined = ReadAs(Asker::kZone, *blob, 3);
  ASSERT_TRUE(joined->has_value());
  EXPECT_TRUE(absl::IsNotFound((*joined)->status())) << (*joined)->status();
  EXPECT_FALSE(local->has_value());
  zone.Take().SendAll();
  Settle();
  EXPECT_TRUE(local->has_value() && (*local)->ok());
}

TEST_F(ManySourcesTest, AReadOfAnotherNodeIsRefusedWhereNobodyCanBeAskedForIt) {
  Restart({}, {{SourceRank::kHome, &home_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  auto joined = ReadAs(Asker::kPeer, *blob, 3);
  ASSERT_TRUE(joined->has_value());
  EXPECT_TRUE(absl::IsNotFound((*joined)->status())) << (*joined)->status();
  auto alone = ReadAs(Asker::kPeer, *blob, 4);
  ASSERT_TRUE(alone->has_value());
  EXPECT_FALSE((*alone)->ok());
  EXPECT_EQ(home_.calls.size(), 1u) << "nobody was asked on behalf of another node";
  EXPECT_FALSE(local->has_value());
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(local->has_value() && (*local)->ok());
}

// ------------------------------------------------------------------------- reads that join, reads that stop

class JoiningReadTest : public ManySourcesTest {
 protected:
  Result ReadIf(ReadMode mode, const Blob& blob, ByteRange range,
                FetchClass fetch_class = FetchClass::kDemand) {
    auto result = std::make_shared<std::optional<absl::StatusOr<ReadResult>>>();
    last_ = cache_->Read({.blob = blob.digest(),
                          .range = range,
                          .fetch_class = fetch_class,
                          .deadline = clock_.now + seconds(30),
                          .asker = Asker::kPeer,
                          .mode = mode},
                         [result](absl::StatusOr<ReadResult> r) { *result = std::move(r); });
    Settle();
    return result;
  }
  Result ReadIf(ReadMode mode, const Blob& blob, uint32_t index) {
    return ReadIf(mode, blob, {uint64_t{index} * kChunk, 1});
  }
  FillId FillChunk(const Blob& blob, uint32_t index) {
    const FillId id = cache_->Fill({.blob = blob.digest(),
                                    .fetch_class = FetchClass::kBackfill,
                                    .chunks = {ChunkSpan{ChunkIndex(index), 1}}},
                                   [](absl::Status) {});
    Settle();
    return id;
  }
  size_t calls() const { return home_.calls.size() + holder_.calls.size() + source_.calls.size(); }
  static bool Lacks(const Result& read) { return read->has_value() && absl::IsNotFound((*read)->status()); }
  static bool Got(const Result& read) { return read->has_value() && (*read)->ok(); }

  ReadId last_ = 0;
};

TEST_F(JoiningReadTest, WhatIsAbsentIsNotFoundAtOnceAndNobodyIsAsked) {
  auto blob = AddBlob(10 * kChunk);
  blob->presence().Set(ChunkIndex(3));
  for (const ReadMode mode : {ReadMode::kIfUnderWay, ReadMode::kIfFlowing, ReadMode::kIfAskedFor}) {
    EXPECT_TRUE(Lacks(ReadIf(mode, *blob, 4)));
    EXPECT_TRUE(Got(ReadIf(mode, *blob, 3)));
    EXPECT_TRUE(Lacks(ReadIf(mode, *blob, {3 * kChunk, 2 * kChunk})));
  }
  EXPECT_EQ(calls(), 0u);
  EXPECT_EQ(blob->lease_count(), 0u);
}

// A node that is the home, or stands in for it, asks holders and the registry: on behalf of others, or for
// itself.
TEST_F(JoiningReadTest, WhatIsAskedForByOwnRightIsWaitedForAndAskedOfNobodyElse) {
  auto blob = AddBlob(10 * kChunk);
  auto others = ReadAs(Asker::kPeer, *blob, 3);
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  EXPECT_FALSE(joined->has_value());
  EXPECT_EQ(calls(), 1u);
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(joined));
  EXPECT_TRUE(Got(others));
  EXPECT_EQ(calls(), 0u);
}

// Or two nodes could wait for each other, the one as for a home.
TEST_F(JoiningReadTest, WhatIsAskedOfANodeThatFetchesIsNotWaitedForUnlessItFlows) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  ASSERT_EQ(home_.calls.size(), 1u);
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfUnderWay, *blob, 3)));
  home_.calls.front().request.progress->Add(1);
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  EXPECT_FALSE(joined->has_value());
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(joined));
}

// For as long as it says itself: it may be that the two wait for each other.
TEST_F(JoiningReadTest, WhateverIsAskedForMayBeWaitedFor) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  ASSERT_EQ(home_.calls.size(), 1u);
  auto joined = ReadIf(ReadMode::kIfAskedFor, *blob, 3);
  EXPECT_FALSE(joined->has_value());
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfAskedFor, *blob, 4)));
  EXPECT_EQ(calls(), 1u) << "nothing is asked for on its behalf";
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(joined));
  EXPECT_TRUE(Got(local));
}

TEST_F(JoiningReadTest, WhoJoinedWaitsOnForTheNextSourceAsLongAsThatIsAskedByOwnRight) {
  Restart({}, {{SourceRank::kHolder, &holder_}, {SourceRank::kSecondStandIn, &home_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  holder_.Take().Fail(absl::UnavailableError("reset"));
  Settle();
  ASSERT_EQ(home_.calls.size(), 1u);
  EXPECT_TRUE(Lacks(joined)) << "which waits for another node";
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(local));
  Restart({}, {{SourceRank::kHolder, &holder_}, {SourceRank::kOrigin, &source_}});
  auto other = AddBlob(10 * kChunk, 8);
  local = ReadChunk(*other, 3);
  joined = ReadIf(ReadMode::kIfUnderWay, *other, 3);
  holder_.Take().Fail(absl::NotFoundError("lacks it"));
  Settle();
  EXPECT_FALSE(joined->has_value());
  Serve();
  EXPECT_TRUE(Got(joined));
}

TEST_F(JoiningReadTest, WhatIsStalledIsNotWaitedForAndWhoWaitsIsTold) {
  Restart({}, {{SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  for (int i = 0; i < 49; ++i) {
    source_.calls.front().request.progress->Sign();
    Pass(std::chrono::milliseconds(100));
  }
  EXPECT_FALSE(joined->has_value());
  source_.calls.front().request.progress->Sign();
  Pass(std::chrono::milliseconds(100));
  EXPECT_TRUE(Lacks(joined)) << "it may have a better way";
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfUnderWay, *blob, 3)));
  EXPECT_FALSE(local->has_value());
}

// Of two legs the one that flowed ends; the other waits for a node.
TEST_F(JoiningReadTest, WhenWhatFlowedEndsWhoJoinedItIsTold) {
  Restart({}, {{SourceRank::kHome, &home_}, {SourceRank::kStandIn, &holder_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  Pass(std::chrono::milliseconds(1500));
  ASSERT_EQ(holder_.calls.size(), 1u);
  holder_.calls.front().request.progress->Add(1);
  auto joined = ReadIf(ReadMode::kIfFlowing, *blob, 3);
  EXPECT_FALSE(joined->has_value());
  holder_.Take().Fail(absl::UnavailableError("reset"));
  Settle();
  EXPECT_TRUE(Lacks(joined));
  EXPECT_FALSE(local->has_value());
}

TEST_F(JoiningReadTest, WhatHasNotBegunToComeDoesNotFlow) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfFlowing, *blob, 3)));
  home_.calls.front().request.progress->Add(1);
  auto joined = ReadIf(ReadMode::kIfFlowing, *blob, 3);
  EXPECT_FALSE(joined->has_value());
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(joined));
}

TEST_F(JoiningReadTest, WhatHasStoppedComingDoesNotFlow) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  home_.calls.front().request.progress->Add(1);
  Pass(seconds(3));
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfFlowing, *blob, 3)));
}

// Another node sends each chunk of a leg by itself: one may wait for this very node while others come.
TEST_F(JoiningReadTest, OfSeveralChunksFromANodeOnlyWhatHasComeFlows) {
  auto blob = AddBlob(10 * kChunk);
  auto local = Read(*blob, {3 * kChunk, 2 * kChunk});
  ASSERT_EQ(home_.calls.size(), 1u);
  ASSERT_EQ(home_.calls.front().request.chunks.count, 2u);
  home_.calls.front().request.progress->Add(kChunk / 2);
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfFlowing, *blob, 3)));
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfUnderWay, *blob, 4)));
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(local));
}

TEST_F(JoiningReadTest, SeveralChunksFromTheRegistryComeOneAfterTheOther) {
  Restart({}, {{SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = Read(*blob, {3 * kChunk, 2 * kChunk});
  source_.calls.front().request.progress->Add(1);
  auto joined = ReadIf(ReadMode::kIfFlowing, *blob, 4);
  EXPECT_FALSE(joined->has_value());
  Serve();
  EXPECT_TRUE(Got(joined));
}

// What has come once may have come in vain: its source asks again, and gives signs of life alone.
TEST_F(JoiningReadTest, SignsAloneAreNoFlow) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  home_.calls.front().request.progress->Add(1);
  for (int i = 0; i < 4; ++i) {
    home_.calls.front().request.progress->Sign();
    Pass(std::chrono::milliseconds(500));
  }
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfFlowing, *blob, 3)));
}

// Where each waited on until nothing had come for a while, a row of nodes waited for one that was gone.
TEST_F(JoiningReadTest, WhatBreaksOffDoesNotFlowAndWhoWaitsIsTold) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  FetchProgress& progress = *home_.calls.front().request.progress;
  progress.BreaksOff();
  Settle();
  EXPECT_FALSE(local->has_value()) << "nothing had begun to come";
  progress.Add(1);
  auto joined = ReadIf(ReadMode::kIfFlowing, *blob, 3);
  EXPECT_FALSE(joined->has_value());
  progress.BreaksOff();
  Settle();
  EXPECT_TRUE(Lacks(joined));
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfFlowing, *blob, 3)));
  progress.Add(1);
  joined = ReadIf(ReadMode::kIfFlowing, *blob, 3);
  EXPECT_FALSE(joined->has_value()) << "it comes anew";
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(joined));
  EXPECT_TRUE(Got(local));
}

TEST_F(JoiningReadTest, WhoJoinedWhatNobodyReadsIsToldWhenItStops) {
  Restart({}, {{SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  FillChunk(*blob, 3);
  source_.calls.front().request.progress->Add(1);
  auto joined = ReadIf(ReadMode::kIfFlowing, *blob, 3);
  Pass(std::chrono::milliseconds(1400));
  EXPECT_FALSE(joined->has_value());
  Pass(std::chrono::milliseconds(200));
  EXPECT_TRUE(Lacks(joined));
  EXPECT_EQ(calls(), 1u) << "nobody else is asked for what nobody reads";
}

TEST_F(JoiningReadTest, WhatFlowedAndFailsIsNotFoundAtOnceThoughOthersWaitOn) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  home_.calls.front().request.progress->Add(1);
  auto joined = ReadIf(ReadMode::kIfFlowing, *blob, 3);
  home_.Take().Fail(absl::UnavailableError("reset"));
  Settle();
  EXPECT_TRUE(Lacks(joined));
  ASSERT_EQ(holder_.calls.size(), 1u);
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(local));
}

TEST_F(JoiningReadTest, WhatFailsIsNotTriedAgainForWhoHasJoined) {
  Restart({}, {{SourceRank::kHolder, &holder_}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = Read(*blob, {3 * kChunk, 1}, FetchClass::kDemand, seconds(1));
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  Pass(seconds(1));
  ASSERT_TRUE(local->has_value()) << "its deadline has passed";
  EXPECT_FALSE(joined->has_value());
  ASSERT_EQ(holder_.calls.size(), 1u);
  holder_.Take().Fail(absl::UnavailableError("reset"));
  Settle();
  EXPECT_TRUE(Lacks(joined));
  EXPECT_EQ(calls(), 0u);
}

TEST_F(JoiningReadTest, NobodyElseIsAskedForWhatIsLateWhereOnlyJoinersWait) {
  Restart({}, {{SourceRank::kHolder, &holder_}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = Read(*blob, {3 * kChunk, 1}, FetchClass::kDemand, seconds(1));
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  holder_.calls.front().request.progress->Sign();
  Pass(seconds(1));
  ASSERT_TRUE(local->has_value()) << "its deadline has passed";
  EXPECT_FALSE(joined->has_value());
  Pass(std::chrono::milliseconds(400));
  EXPECT_FALSE(joined->has_value());
  Pass(std::chrono::milliseconds(200));
  EXPECT_TRUE(Lacks(joined)) << "it is silent, and who has joined has others to ask";
  EXPECT_EQ(calls(), 1u);
  EXPECT_TRUE(holder_.calls.front().control->cancelled);
}

TEST_F(JoiningReadTest, WhileNobodyCanBeAskedNothingComes) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  while (calls() > 0) {
    for (FakeSource* source : {&home_, &holder_, &source_}) {
      if (!source->calls.empty()) source->Take().Fail(absl::UnavailableError("away"));
      Settle();
    }
  }
  EXPECT_FALSE(local->has_value()) << "it is paused";
  EXPECT_TRUE(Lacks(joined));
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfUnderWay, *blob, 3)));
}

TEST_F(JoiningReadTest, WhatIsUnderWayIsNeitherRaisedNorGivenUpForWhoHasJoined) {
  Restart({}, {{SourceRank::kHolder, &holder_}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  const FillId fill = FillChunk(*blob, 3);
  ASSERT_EQ(holder_.calls.size(), 1u);
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  EXPECT_FALSE(holder_.calls.front().control->raised.has_value());
  cache_->StopFill(fill);
  Settle();
  EXPECT_FALSE(holder_.calls.front().control->cancelled);
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(joined));
}

TEST_F(JoiningReadTest, WhatIsQueuedIsNotJoined) {
  Restart({.fetches_max = {1, 1, 1, 1}}, {{SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk), other = AddBlob(10 * kChunk, 8);
  FillChunk(*other, 0);
  std::optional<absl::StatusOr<ReadResult>> queued;
  const ReadId id = cache_->Read({.blob = blob->digest(),
                                  .range = {3 * kChunk, 1},
                                  .fetch_class = FetchClass::kBackfill,
                                  .deadline = clock_.now + seconds(30)},
                                 [&](absl::StatusOr<ReadResult> r) { queued = std::move(r); });
  Settle();
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfFlowing, *blob, 3)));
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfUnderWay, *blob, 3))) << "by whose right is not known yet";
  cache_->StopRead(id);
  Settle();
  EXPECT_TRUE(queued && absl::IsCancelled(queued->status()));
  Serve();
  EXPECT_EQ(calls(), 0u);
}

TEST_F(JoiningReadTest, WhatOtherNodesGetIsNotCountedAsReadHere) {
  auto blob = AddBlob(10 * kChunk);
  blob->presence().Set(ChunkIndex(3));
  EXPECT_TRUE(Got(ReadIf(ReadMode::kFetch, *blob, 3)));
  EXPECT_TRUE(Lacks(ReadIf(ReadMode::kIfFlowing, *blob, 4)));
  EXPECT_EQ(telemetry_.reads[static_cast<int>(SourceKind::kLocal)].value(), 0u);
  EXPECT_EQ(telemetry_.read_errors.value(), 0u);
}

TEST_F(JoiningReadTest, AReadThatIsStoppedIsCancelledOnTheWireUnlessOthersWait) {
  auto blob = AddBlob(10 * kChunk);
  auto first = ReadIf(ReadMode::kFetch, *blob, 3);
  const ReadId first_id = last_;
  auto second = ReadIf(ReadMode::kFetch, *blob, 3);
  const ReadId second_id = last_;
  ASSERT_EQ(holder_.calls.size(), 1u);
  cache_->StopRead(first_id);
  Settle();
  ASSERT_TRUE(first->has_value());
  EXPECT_TRUE(absl::IsCancelled((*first)->status()));
  EXPECT_FALSE(holder_.calls.front().control->cancelled);
  EXPECT_FALSE(second->has_value());
  cache_->StopRead(first_id);
  cache_->StopRead(second_id);
  Settle();
  ASSERT_TRUE(second->has_value());
  EXPECT_TRUE(absl::IsCancelled((*second)->status()));
  EXPECT_TRUE(holder_.calls.front().control->cancelled);
  holder_.Take().Fail(absl::CancelledError("cancelled"));
  Settle();
  EXPECT_EQ(calls(), 0u);
  EXPECT_EQ(blob->lease_count(), 0u);
}

TEST_F(JoiningReadTest, StoppingAReadThatHasEndedIsNothing) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadIf(ReadMode::kFetch, *blob, 3);
  holder_.Take().SendAll();
  Settle();
  ASSERT_TRUE(Got(read));
  cache_->StopRead(last_);
  cache_->StopRead(last_ + 1000);
  Settle();
  EXPECT_TRUE(Got(read));
}

TEST_F(JoiningReadTest, AJoinerThatIsStoppedLeavesTheOthersAlone) {
  Restart({}, {{SourceRank::kHolder, &holder_}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  cache_->StopRead(last_);
  Settle();
  EXPECT_TRUE(joined->has_value());
  EXPECT_FALSE(holder_.calls.front().control->cancelled);
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(Got(local));
}

TEST_F(JoiningReadTest, TheLastJoinerThatIsStoppedGivesUpWhatNobodyElseWaitsFor) {
  Restart({}, {{SourceRank::kHolder, &holder_}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  const FillId fill = FillChunk(*blob, 3);
  auto joined = ReadIf(ReadMode::kIfUnderWay, *blob, 3);
  cache_->StopFill(fill);
  cache_->StopRead(last_);
  Settle();
  EXPECT_TRUE(joined->has_value());
  EXPECT_TRUE(holder_.calls.front().control->cancelled);
}

TEST_F(ManySourcesTest, WhatIsRefusedToOneRightIsAskedForByAnother) {
  class Right final : public AskerGrant {};
  const Grant first = std::make_shared<Right>(), second = std::make_shared<Right>();
  Restart({}, {{SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto refused = ReadAs(Asker::kPeer, *blob, 3, first);
  auto granted = ReadAs(Asker::kPeer, *blob, 3, second);
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_EQ(source_.calls.front().request.grant, first);
  source_.Take().Fail(absl::PermissionDeniedError("403"));
  Settle();
  ASSERT_TRUE(refused->has_value());
  EXPECT_TRUE(absl::IsPermissionDenied((*refused)->status()));
  EXPECT_FALSE(granted->has_value());
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_EQ(source_.calls.front().request.grant, second);
  Serve();
  EXPECT_TRUE(granted->has_value() && (*granted)->ok());
}

TEST_F(ManySourcesTest, WhatOneSourceRefusesToTheOnlyRightThatWaitsIsAskedOfAnother) {
  class Right final : public AskerGrant {};
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadAs(Asker::kLocal, *blob, 3, std::make_shared<Right>());
  home_.Take().Fail(absl::PermissionDeniedError("403"));
  Settle();
  EXPECT_FALSE(read->has_value());
  ASSERT_EQ(holder_.calls.size(), 1u);
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
}

// It says that each is to ask for itself, which the others can.
TEST_F(ManySourcesTest, WhatAMemberRefusesFailsNoReaderThoughOthersWaitByAnotherRight) {
  class Right final : public AskerGrant {};
  auto blob = AddBlob(10 * kChunk);
  auto reader = ReadAs(Asker::kLocal, *blob, 3);
  auto peer = ReadAs(Asker::kPeer, *blob, 3, std::make_shared<Right>());
  home_.Take().Fail(absl::UnauthenticatedError("403"));
  Settle();
  EXPECT_FALSE(reader->has_value());
  ASSERT_EQ(holder_.calls.size(), 1u);
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(reader->has_value() && (*reader)->ok());
  EXPECT_TRUE(peer->has_value() && (*peer)->ok());
}

TEST_F(ManySourcesTest, WhatASourceWasNotAskedForIsDropped) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  FakeSource::Call call = home_.Take();
  call.SendBytes(ChunkIndex(4), 1, kChunk);
  call.SendBytes(ChunkIndex(3), 1, kChunk - 1);
  Settle();
  EXPECT_FALSE(blob->presence().IsPresent(ChunkIndex(3)));
  EXPECT_FALSE(blob->presence().IsPresent(ChunkIndex(4)));
  EXPECT_EQ(home_.blamed.size(), 2u);
  call.Fail(absl::OkStatus());
  Settle();
  holder_.Take().SendAll();
  Settle();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
}

TEST_F(ManySourcesTest, AChunkThatComesTwiceIsStoredOnce) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  FakeSource::Call call = home_.Take();
  call.Send(ChunkIndex(3));
  call.Send(ChunkIndex(3));
  call.Fail(absl::OkStatus());
  Settle();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
  EXPECT_EQ(store_.commits, 1);
}

// Offers what the test says.
class FakeDirectory final : public SourceDirectory {
 public:
  void Offers(const Blob&, ChunkSpan, FetchClass, Asker, const Grant&,
              std::vector<SourceOffer>* offers) override {
    offers->insert(offers->end(), given.begin(), given.end());
  }
  void OnOffersChanged(absl::AnyInvocable<void(const Digest&)> changed) override {
    on_changed = std::move(changed);
  }
  std::vector<SourceOffer> given;
  absl::AnyInvocable<void(const Digest&)> on_changed;
};

TEST_F(ManySourcesTest, ARunThatIsLateIsTakenOverByAllWhoHavePartsOfIt) {
  FakeSource other{SourceKind::kPeer};
  FakeDirectory directory;
  const auto offer = [&](uint32_t id, SourceRank rank, FakeSource& source, uint32_t first, uint32_t count) {
    directory.given.push_back(
        {SourceId{id}, rank, {std::shared_ptr<void>(), &source}, {ChunkIndex(first), count}});
  };
  offer(1, SourceRank::kHome, home_, 0, 10);
  offer(2, SourceRank::kHolder, holder_, 0, 3);
  offer(3, SourceRank::kHolder, other, 3, 7);
  cache_ = std::make_unique<BlobCache>(
      BlobCache::Parts{clock_, loop_, io_, store_, verifier_, directory, telemetry_, &bulk_},
      BlobCacheLimits{});
  auto blob = AddBlob(10 * kChunk);
  auto read = Read(*blob, {kChunk, 5 * kChunk});
  ASSERT_EQ(home_.calls.size(), 1u);
  Pass(std::chrono::milliseconds(1500));
  ASSERT_EQ(holder_.calls.size(), 1u);
  ASSERT_EQ(other.calls.size(), 1u);
  EXPECT_EQ(holder_.calls.front().request.chunks, (ChunkSpan{ChunkIndex(1), 2}));
  EXPECT_EQ(other.calls.front().request.chunks, (ChunkSpan{ChunkIndex(3), 3}));
  holder_.Take().SendAll();
  other.Take().SendAll();
  Settle();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
  cache_.reset();  // before the directory
}

TEST_F(BlobCacheTest, ANewSourceWakesWhatWaits) {
  FakeDirectory directory;
  cache_ = std::make_unique<BlobCache>(
      BlobCache::Parts{clock_, loop_, io_, store_, verifier_, directory, telemetry_, &bulk_},
      BlobCacheLimits{});
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  EXPECT_FALSE(read->has_value());
  const std::shared_ptr<FakeSource> source = std::make_shared<FakeSource>(SourceKind::kPeer);
  directory.given.push_back({SourceId{1}, SourceRank::kHolder, source, {ChunkIndex(3), 1}});
  directory.on_changed(blob->digest());
  Settle();
  ASSERT_EQ(source->calls.size(), 1u);
  source->Take().SendAll();
  Settle();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
  cache_.reset();
  EXPECT_EQ(directory.on_changed, nullptr);
}

// --------------------------------------------------------------------- raising, cancelling, transient errors

TEST_F(BlobCacheTest, AFetchUnderWayThatAReaderJoinsIsRaisedOnTheWire) {
  auto blob = AddBlob(64 * kChunk);
  cache_->Fill({.blob = blob->digest()}, [](absl::Status) {});
  Settle();
  ASSERT_FALSE(source_.calls.empty());
  EXPECT_EQ(source_.calls.front().control->raised, std::nullopt);
  ReadChunk(*blob, source_.calls.front().request.chunks.first.value());
  EXPECT_EQ(source_.calls.front().control->raised, FetchClass::kDemand);
  for (size_t i = 1; i < source_.calls.size(); ++i)
    EXPECT_EQ(source_.calls[i].request.fetch_class, FetchClass::kBackfill) << "nothing is asked for twice";
}

TEST_F(BlobCacheTest, StoppingAFillCancelsWhatNobodyElseWants) {
  auto blob = AddBlob(64 * kChunk);
  const FillId fill = cache_->Fill({.blob = blob->digest()}, [](absl::Status) {});
  Settle();
  ASSERT_EQ(source_.calls.size(), 2u);
  auto read = ReadChunk(*blob, source_.calls.front().request.chunks.first.value());
  cache_->StopFill(fill);
  Settle();
  EXPECT_FALSE(source_.calls[0].control->cancelled) << "a reader waits for a part of it";
  EXPECT_TRUE(source_.calls[1].control->cancelled);
  EXPECT_EQ(source_.calls.size(), 2u);
  Serve();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
}

TEST_F(BlobCacheTest, OfAPartOnlyThePartIsFilled) {
  auto blob = AddBlob(64 * kChunk);
  std::optional<absl::Status> filled;
  blob->presence().Set(ChunkIndex(10));
  cache_->Fill({.blob = blob->digest(),
                .fetch_class = FetchClass::kHint,
                .chunks = {{ChunkIndex(9), 3}, {ChunkIndex(40), 1}}},
               [&](absl::Status status) { filled = status; });
  Settle();
  while (!source_.calls.empty()) Serve();
  EXPECT_TRUE(filled.has_value() && filled->ok());
  EXPECT_EQ(blob->presence().present_count(), 4u);
}

TEST_F(BlobCacheTest, ManySlowFillsAllEndWell) {
  // 60 blobs of 16 MiB over 4 MiB/s: the last waits four minutes for its turn.
  int done = 0;
  absl::Status failed;
  for (uint8_t name = 1; name <= 60; ++name) {
    cache_->Fill({.blob = AddBlob(64 * kChunk, name)->digest()}, [&](absl::Status status) {
      ++done;
      if (!status.ok()) failed = status;
    });
  }
  Settle();
  while (!source_.calls.empty()) {
    FakeSource::Call call = source_.Take();
    for (ChunkIndex i = call.request.chunks.first; i < call.request.chunks.end(); i = i.next()) {
      Pass(std::chrono::microseconds(62500));
      ASSERT_LT(clock_.now, call.request.deadline);
      call.Send(i);
      Settle();
    }
    std::move(call.on_done)(absl::OkStatus());
    Settle();
  }
  EXPECT_EQ(done, 60);
  EXPECT_TRUE(failed.ok()) << failed;
}

TEST_F(BlobCacheTest, AChunkThatIsTakenBackBeforeTheReadEndsIsFetchedAgain) {
  auto blob = AddBlob(10 * kChunk);
  blob->presence().Set(ChunkIndex(1));
  auto read = Read(*blob, {0, 3 * kChunk});
  ASSERT_EQ(source_.calls.size(), 2u);
  Serve();
  ASSERT_TRUE(store_.Revoke(*blob, ChunkIndex(0)).ok());
  blob->presence().Clear(ChunkIndex(1));
  Serve();
  EXPECT_FALSE(read->has_value()) << "two of its chunks are absent";
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_EQ(source_.calls.front().request.chunks, (ChunkSpan{ChunkIndex(0), 2}));
  Serve();
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE((*read)->ok());
  EXPECT_TRUE(blob->presence().AllPresent({ChunkIndex(0), 3}));
}

TEST_F(BlobCacheTest, AStoreThatSaysTryAgainIsTriedAgainWithTheSameBytes) {
  auto blob = AddBlob(10 * kChunk);
  store_.commit_errors = {absl::UnavailableError("too many blobs wait for the disk"),
                          absl::UnavailableError("too many blobs wait for the disk")};
  auto read = ReadChunk(*blob, 0);
  Serve();
  for (int i = 0; i < 3; ++i) Pass(seconds(1));
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE((*read)->ok()) << (*read)->status();
  EXPECT_TRUE(source_.calls.empty()) << "nothing is fetched again";
}

TEST_F(BlobCacheTest, AStoreThatGoesOnSayingTryAgainKeepsADemandWaitingNoLongerThanItsDeadline) {
  auto blob = AddBlob(10 * kChunk);
  store_.commit_error = absl::UnavailableError("too many blobs wait for the disk");
  auto read = ReadChunk(*blob, 0);
  for (int i = 0; i < 290; ++i) {
    while (!source_.calls.empty()) Serve();
    Pass(std::chrono::milliseconds(100));
  }
  store_.commit_error = absl::OkStatus();
  for (int i = 0; i < 10 && !read->has_value(); ++i) {
    while (!source_.calls.empty()) Serve();
    Pass(std::chrono::milliseconds(100));
  }
  ASSERT_TRUE(read->has_value());
}

TEST_F(BlobCacheTest, AReadHoldsALeaseUntilItsResultIsGone) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 0);
  EXPECT_EQ(blob->lease_count(), 1u);
  EXPECT_FALSE(store_.Evict(blob->digest()).ok());
  Serve();
  EXPECT_EQ(blob->lease_count(), 1u);
  read->reset();
  EXPECT_EQ(blob->lease_count(), 0u);
}

TEST_F(BlobCacheTest, LookupTellsWhatIsPresentAndOpensNothing) {
  auto blob = AddBlob(10 * kChunk);
  blob->presence().Set(ChunkIndex(3));
  EXPECT_TRUE(cache_->Lookup(blob->digest(), {3 * kChunk, kChunk}).ok());
  EXPECT_TRUE(absl::IsNotFound(cache_->Lookup(blob->digest(), {3 * kChunk, kChunk + 1}).status()));
  EXPECT_TRUE(absl::IsOutOfRange(cache_->Lookup(blob->digest(), {10 * kChunk, 1}).status()));
  EXPECT_TRUE(absl::IsNotFound(cache_->Lookup(Digest(), {0, 1}).status()));
  Settle();
  EXPECT_TRUE(source_.calls.empty());
  EXPECT_EQ(blob->lease_count(), 0u);
}

TEST_F(BlobCacheTest, NothingIsLeftUnderWayOnceAllHasEnded) {
  // Failures, late legs, stopped fills: whatever happens, as much may start afterwards as in the beginning.
  FakeSource home(SourceKind::kPeer);
  Restart({}, {{SourceRank::kHome, &home}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(64 * kChunk);
  const auto started_at_once = [&] {
    const FillId fill = cache_->Fill({.blob = blob->digest()}, [](absl::Status) {});
    Settle();
    const size_t started = home.calls.size();
    cache_->StopFill(fill);
    Settle();
    for (auto* source : {&home, &source_})
      while (!source->calls.empty()) source->Take().Fail(absl::CancelledError("nobody wants it"));
    Settle();
    return started;
  };
  const size_t before = started_at_once();
  for (int round = 0; round < 20; ++round) {
    for (uint32_t i = 0; i < 8; ++i) ReadChunk(*blob, i * 7);
    Pass(seconds(2));
    while (!home.calls.empty()) {
      home.Take().Fail(round % 2 ? absl::UnavailableError("reset") : absl::NotFoundError("lacks it"));
      Settle();
    }
    while (!source_.calls.empty()) {
      source_.Take().Fail(absl::FailedPreconditionError("410"));
      Settle();
    }
    Pass(seconds(31));
    while (!home.calls.empty()) {
      home.Take().Fail(absl::UnavailableError("reset"));
      Settle();
    }
  }
  EXPECT_EQ(started_at_once(), before);
  EXPECT_EQ(blob->lease_count(), 0u);
  EXPECT_EQ(blob.use_count(), 2) << "the test and the store alone hold it";
}

// ----------------------------------------------------------------------------------- peers before the origin

class PeersBeforeOriginTest : public BlobCacheTest {
 protected:
  PeersBeforeOriginTest() { Restart({}, {{SourceRank::kHome, &peers_}, {SourceRank::kOrigin, &source_}}); }
  FakeSource peers_{SourceKind::kPeer};
};

TEST_F(PeersBeforeOriginTest, WhatPeersLackCostsTheOriginNoTry) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  peers_.Take().Fail(absl::NotFoundError("no member has it"));
  Settle();
  verifier_.bad[ChunkIndex(3)] = 1;
  Serve();  // bad once
  Serve();
  ASSERT_TRUE(read->has_value());
  EXPECT_EQ((**read)->source, SourceKind::kOrigin);
  EXPECT_EQ(source_.blamed.size(), 1u);
}

TEST_F(PeersBeforeOriginTest, WrongBytesOfAPeerAreDroppedBlamedAndFetchedFromTheOrigin) {
  auto blob = AddBlob(10 * kChunk);
  verifier_.bad[ChunkIndex(3)] = 1;
  auto read = ReadChunk(*blob, 3);
  peers_.Take().SendAll();
  Settle();
  EXPECT_FALSE(read->has_value());
  EXPECT_EQ(peers_.blamed, (std::vector<std::pair<SenderId, ChunkIndex>>{{7, ChunkIndex(3)}}));
  EXPECT_TRUE(peers_.praised.empty());
  EXPECT_EQ(telemetry_.verify_failures[static_cast<int>(SourceKind::kPeer)].value(), 1u);
  Serve();
  ASSERT_TRUE(read->has_value());
  EXPECT_EQ((**read)->source, SourceKind::kOrigin);
}

TEST_F(PeersBeforeOriginTest, PeersThatAreAwayWhileTheOriginIsAwayAreAskedAgainToo) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  peers_.Take().Fail(absl::NotFoundError("no member has it"));
  Settle();
  for (int i = 0; i < 2; ++i) {
    source_.Take().Fail(absl::UnavailableError("connection refused"));
    Settle();
  }
  Pass(seconds(1));
  ASSERT_FALSE(peers_.calls.empty());
  peers_.Take().SendAll();
  Settle();
  EXPECT_EQ((**read)->source, SourceKind::kPeer);
}

TEST_F(PeersBeforeOriginTest, WhoIsAwayIsAskedAgainBeforeTheOriginsNoFailsARead) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  const Instant back = clock_.now + seconds(4);
  int asked = 0;
  while (clock_.now < back) {
    for (; !peers_.calls.empty(); ++asked) {
      peers_.Take().Fail(absl::UnavailableError("connection reset"));
      Settle();
      if (!source_.calls.empty()) source_.Take().Fail(absl::NotFoundError("404"));
      Settle();
    }
    ASSERT_FALSE(read->has_value()) << (*read)->status();
    Pass(std::chrono::milliseconds(100));
  }
  EXPECT_LE(asked, 8) << "twice each time, after 0, 0.5, 1.5 and 3.5 s";
  while (peers_.calls.empty()) Pass(std::chrono::milliseconds(100));
  peers_.Take().SendAll();
  Settle();
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE((*read)->ok()) << (*read)->status();
}

TEST_F(PeersBeforeOriginTest, WhoStaysAwayCostsAReaderItsTimeAndNoMore) {
  auto blob = AddBlob(10 * kChunk);
  auto read = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(5));
  const Instant deadline = clock_.now + seconds(5);
  while (!read->has_value() && clock_.now < deadline) {
    while (!peers_.calls.empty()) {
      peers_.Take().Fail(absl::UnavailableError("connection reset"));
      Settle();
    }
    if (!source_.calls.empty()) source_.Take().Fail(absl::NotFoundError("404"));
    Settle();
    Pass(std::chrono::milliseconds(100));
  }
  ASSERT_TRUE(read->has_value());
  EXPECT_GE(clock_.now, deadline - seconds(1)) << "it had time left";
  EXPECT_TRUE(absl::IsNotFound((*read)->status())) << (*read)->status();
}

TEST_F(PeersBeforeOriginTest, WhoIsAwayIsNotWaitedForWhenTheOriginSendsWrongBytes) {
  auto blob = AddBlob(10 * kChunk);
  verifier_.bad[ChunkIndex(3)] = 100;
  auto read = ReadChunk(*blob, 3);
  for (int i = 0; i < 2; ++i) {
    peers_.Take().Fail(absl::UnavailableError("connection reset"));
    Settle();
    Serve();
  }
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE(absl::IsDataLoss((*read)->status())) << (*read)->status();
}

TEST_F(PeersBeforeOriginTest, WhoIsAwayIsNotWaitedForWhenTheStoreDoesNotTakeTheChunk) {
  auto blob = AddBlob(10 * kChunk);
  store_.commit_error = absl::ResourceExhaustedError("no space");
  auto read = ReadChunk(*blob, 3);
  for (int i = 0; i < 2; ++i) {
    if (!peers_.calls.empty()) peers_.Take().Fail(absl::UnavailableError("connection reset"));
    Settle();
    Serve();
  }
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE(absl::IsResourceExhausted((*read)->status())) << (*read)->status();
}

// ------------------------------------------------------------------------------------ places and second legs

TEST_F(BlobCacheTest, TheLastArrivalOfAFetchMakesRoomForTheNext) {
  BlobCacheLimits limits;
  limits.fetches_max = {1, 1, 1, 1};
  Restart(limits);
  auto blob = AddBlob(10 * kChunk);
  auto first = ReadChunk(*blob, 0);
  auto second = ReadChunk(*blob, 5);
  ASSERT_EQ(source_.calls.size(), 1u);
  // As sources mostly do: it says that it is done while the chunk is still being verified and written.
  Serve();
  EXPECT_TRUE(first->has_value());
  ASSERT_EQ(source_.calls.size(), 1u) << "nothing else would start it";
  Serve();
  EXPECT_TRUE(second->has_value() && (*second)->ok());
}

TEST_F(BlobCacheTest, AFetchIsCancelledOnceTheLastChunkThatSomebodyWantedHasCome) {
  auto blob = AddBlob(4 * kChunk);
  const FillId fill = cache_->Fill({.blob = blob->digest()}, [](absl::Status) {});
  Settle();
  ASSERT_EQ(source_.calls.size(), 1u);
  ASSERT_GT(source_.calls.front().request.chunks.count, 2u);
  auto read = ReadChunk(*blob, 0);
  cache_->StopFill(fill);
  Settle();
  FakeSource::Call call = source_.Take();
  EXPECT_FALSE(call.control->cancelled) << "a reader waits for its first chunk";
  call.Send(ChunkIndex(0));
  Settle();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
  EXPECT_TRUE(call.control->cancelled) << "nobody wants the rest";
}

TEST_F(ManySourcesTest, AReadOfAnotherNodeDoesNotFallBackOnWhatWasAskedOfAThird) {
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  ASSERT_EQ(home_.calls.size(), 1u);
  auto peer = ReadAs(Asker::kPeer, *blob, 3);
  ASSERT_EQ(holder_.calls.size(), 1u);
  holder_.Take().Fail(absl::NotFoundError("lacks it"));
  Settle();
  ASSERT_EQ(source_.calls.size(), 1u) << "the next that may be asked on its behalf";
  source_.Take().Fail(absl::NotFoundError("404"));
  Settle();
  ASSERT_TRUE(peer->has_value()) << "it would wait for the home's fetch";
  EXPECT_TRUE(absl::IsNotFound((*peer)->status())) << (*peer)->status();
  EXPECT_FALSE(local->has_value());
  auto again = ReadAs(Asker::kPeer, *blob, 3);
  EXPECT_TRUE(again->has_value()) << "nor does the next";
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(local->has_value() && (*local)->ok());
}

TEST_F(ManySourcesTest, OtherNodesAreTurnedAwayByADiskThatTakesNothing) {
  Restart({}, {{SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  store_.commit_error = absl::UnavailableError("write: Input/output error");
  auto local = ReadChunk(*blob, 3);
  // While it is asked for, tried and paused.
  for (int come = 0; come < 8; ++come) {
    auto peer = ReadAs(Asker::kPeer, *blob, 3);
    for (int i = 0; i < 40 && !peer->has_value(); ++i) {
      if (!source_.calls.empty()) Serve();
      Pass(std::chrono::milliseconds(100));
    }
    ASSERT_TRUE(peer->has_value());
    EXPECT_TRUE(absl::IsResourceExhausted((*peer)->status())) << (*peer)->status();
    Pass(std::chrono::milliseconds(50));
  }
  EXPECT_FALSE(local->has_value()) << "it has time left";
}

TEST_F(BlobCacheTest, WhatTheStoreSaidBeforeAPauseDoesNotHideWhatTheSourceSaysAfterIt) {
  auto blob = AddBlob(10 * kChunk);
  store_.commit_error = absl::UnavailableError("too many blobs wait for the disk to sync; try again");
  auto read = ReadChunk(*blob, 3);
  const auto wait_for_call = [&] {
    for (int i = 0; i < 50 && source_.calls.empty(); ++i) Pass(std::chrono::milliseconds(100));
    return !source_.calls.empty();
  };
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(wait_for_call());
    Serve();
  }
  ASSERT_TRUE(wait_for_call());
  ASSERT_FALSE(read->has_value());
  source_.Take().Fail(absl::NotFoundError("404"));
  Settle();
  ASSERT_TRUE(read->has_value()) << "it can't be had";
  EXPECT_TRUE(absl::IsNotFound((*read)->status())) << (*read)->status();
}

TEST_F(ManySourcesTest, AReadOfAnotherNodeDoesNotWaitForAPauseToEnd) {
  Restart({}, {{SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  for (int i = 0; i < 2; ++i) {
    source_.Take().Fail(absl::UnavailableError("registry is down"));
    Settle();
  }
  ASSERT_TRUE(source_.calls.empty()) << "paused";
  auto peer = ReadAs(Asker::kPeer, *blob, 3);
  ASSERT_TRUE(peer->has_value()) << "it has others to ask";
  EXPECT_TRUE(absl::IsUnavailable((*peer)->status())) << (*peer)->status();
  Pass(seconds(1));
  Serve();
  EXPECT_TRUE(local->has_value() && (*local)->ok());
}

// ------------------------------------------------------------------------------ what a break would go by

TEST_F(BlobCacheTest, AReaderWithAnEarlierDeadlineIsNotKeptForTheOthers) {
  auto blob = AddBlob(10 * kChunk);
  auto late = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(20));
  auto early = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(5));
  auto last = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(30));
  Pass(seconds(5));
  ASSERT_TRUE(early->has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*early)->status()));
  EXPECT_FALSE(late->has_value());
  Pass(seconds(15));
  ASSERT_TRUE(late->has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*late)->status()));
  EXPECT_FALSE(last->has_value());
  Pass(seconds(10));
  EXPECT_TRUE(last->has_value());
}

TEST_F(BlobCacheTest, AReadWhoseDeadlineHasPassedAsksNobody) {
  auto blob = AddBlob(10 * kChunk);
  auto read = Read(*blob, {0, 1}, FetchClass::kDemand, seconds(0));
  ASSERT_TRUE(read->has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*read)->status()));
  EXPECT_TRUE(source_.calls.empty());
}

TEST_F(BlobCacheTest, AReaderOfABlobThatIsRefusedMeanwhileIsToldSo) {
  auto blob = AddBlob(10 * kChunk);
  auto stored = ReadChunk(*blob, 0);
  auto absent = ReadChunk(*blob, 5);
  source_.Take().SendAll();
  io_.Run();  // stored; the loop has not heard of it
  blob->Refuse();
  Settle();
  Serve();
  for (const Result& read : {stored, absent}) {
    ASSERT_TRUE(read->has_value());
    EXPECT_TRUE(absl::IsDataLoss((*read)->status())) << (*read)->status();
  }
  EXPECT_TRUE(source_.calls.empty()) << "nobody is asked for a refused blob";
}

TEST_F(BlobCacheTest, AFillThatHasSaidItsEndHoldsTheBlobNoMore) {
  auto blob = AddBlob(2 * kChunk);
  std::optional<absl::Status> evicted;
  const auto evict = [&](const absl::Status&) { evicted = store_.Evict(blob->digest()); };
  cache_->StopFill(cache_->Fill({.blob = blob->digest()}, evict));
  Settle();
  EXPECT_TRUE(evicted.has_value() && evicted->ok()) << *evicted;
}

TEST_F(BlobCacheTest, WhatAReaderWaitsForIsTriedAgainForItAndNotBehindTheBackfill) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 0);
  source_.Take().Fail(absl::UnavailableError("reset"));
  Settle();
  ASSERT_EQ(source_.calls.size(), 1u);
  EXPECT_EQ(source_.calls.front().request.fetch_class, FetchClass::kDemand);
}

TEST_F(BlobCacheTest, ABlobThatWasEvictedIsNotReadAhead) {
  BlobCacheLimits limits;
  limits.fetches_max[static_cast<size_t>(FetchClass::kReadahead)] = 1;
  Restart(limits);
  const auto read_two_chunks = [&](const Blob& blob) {
    for (uint32_t i = 0; i < 2; ++i) {
      auto read = ReadChunk(blob, i);
      for (size_t at = 0; at < source_.calls.size(); ++at) {
        if (source_.calls[at].request.fetch_class != FetchClass::kDemand) continue;
        std::rotate(source_.calls.begin(), source_.calls.begin() + static_cast<std::ptrdiff_t>(at),
                    source_.calls.end());
        Serve();
        break;
      }
      EXPECT_TRUE(read->has_value() && (*read)->ok());
    }
  };
  auto other = AddBlob(64 * kChunk, 1), blob = AddBlob(64 * kChunk, 2);
  read_two_chunks(*other);
  ASSERT_EQ(source_.calls.size(), 1u) << "the one that may be under way";
  read_two_chunks(*blob);
  ASSERT_TRUE(store_.Evict(blob->digest()).ok());
  Serve();
  for (const FakeSource::Call& call : source_.calls) EXPECT_NE(call.request.blob, blob);
}

TEST_F(ManySourcesTest, AReadOfAnotherNodeIsRefusedWhereTwoLegsWaitForNodes) {
  Restart({},
          {{SourceRank::kHome, &home_}, {SourceRank::kStandIn, &holder_}, {SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto local = ReadChunk(*blob, 3);
  Pass(seconds(2));
  ASSERT_EQ(home_.calls.size() + holder_.calls.size(), 2u);
  auto peer = ReadAs(Asker::kPeer, *blob, 3);
  ASSERT_TRUE(peer->has_value());
  EXPECT_TRUE(absl::IsNotFound((*peer)->status())) << (*peer)->status();
  EXPECT_TRUE(source_.calls.empty()) << "no third leg";
}

TEST_F(ManySourcesTest, AFetchThatAReaderJoinsIsTakenOverWhenItIsSilent) {
  auto blob = AddBlob(64 * kChunk);
  cache_->Fill({.blob = blob->digest()}, [](absl::Status) {});
  Settle();
  ASSERT_FALSE(home_.calls.empty());
  Pass(seconds(5));
  EXPECT_TRUE(holder_.calls.empty()) << "nobody waits for it";
  ReadChunk(*blob, 0);
  Pass(seconds(2));
  EXPECT_EQ(holder_.calls.size(), 1u);
}

TEST_F(ManySourcesTest, AFetchThatIsSilentAlreadyIsTakenOverWhenAReaderJoinsIt) {
  auto blob = AddBlob(64 * kChunk);
  cache_->Fill({.blob = blob->digest()}, [](absl::Status) {});
  Settle();
  for (int look = 0; look < 26; ++look) Pass(std::chrono::milliseconds(100));
  ASSERT_TRUE(holder_.calls.empty());
  ReadChunk(*blob, 0);
  Pass(std::chrono::milliseconds(1));
  EXPECT_EQ(holder_.calls.size(), 1u);
}

TEST_F(ManySourcesTest, NeighboursThatWaitByDifferentRightsAreAskedForApart) {
  class Right final : public AskerGrant {};
  const Grant first = std::make_shared<Right>(), second = std::make_shared<Right>();
  Restart({}, {{SourceRank::kOrigin, &source_}});
  auto blob = AddBlob(10 * kChunk);
  auto both = Read(*blob, {3 * kChunk, 2 * kChunk}, FetchClass::kDemand, seconds(1));
  auto of_first = ReadAs(Asker::kLocal, *blob, 3, first);
  auto of_second = ReadAs(Asker::kLocal, *blob, 4, second);
  ASSERT_EQ(source_.calls.size(), 1u);
  Pass(seconds(1));
  ASSERT_TRUE(both->has_value());
  source_.Take().Fail(absl::UnavailableError("reset"));
  Settle();
  ASSERT_EQ(source_.calls.size(), 2u);
  for (const FakeSource::Call& call : source_.calls) {
    EXPECT_EQ(call.request.grant, call.request.chunks.first == ChunkIndex(3) ? first : second);
    EXPECT_EQ(call.request.chunks.count, 1u);
  }
}

TEST_F(ManySourcesTest, WhoSendsAChunkTwiceIsBlamedForTheSecond) {
  auto blob = AddBlob(10 * kChunk);
  auto read = ReadChunk(*blob, 3);
  FakeSource::Call call = home_.Take();
  call.Send(ChunkIndex(3));
  call.Send(ChunkIndex(3));
  Settle();
  EXPECT_EQ(home_.blamed.size(), 1u);
  EXPECT_EQ(home_.praised.size(), 1u);
}

TEST_F(BlobCacheTest, AStoreThatGoesOnSayingTryAgainIsNotTriedForEverWithTheSameBytes) {
  auto blob = AddBlob(10 * kChunk);
  store_.commit_error = absl::UnavailableError("too many blobs wait for the disk");
  auto read = ReadChunk(*blob, 0);
  Serve();
  for (int i = 0; i < 20; ++i) Pass(std::chrono::milliseconds(100));
  ASSERT_EQ(source_.calls.size(), 1u) << "it is fetched again";
  store_.commit_error = absl::OkStatus();
  Serve();
  EXPECT_TRUE(read->has_value() && (*read)->ok());
}

TEST_F(OfferTest, WhatWasVerifiedAlreadyIsNotVerifiedAgain) {
  auto blob = AddBlob(10 * kChunk);
  verifier_.bad[ChunkIndex(3)] = 1;
  auto offered = Offer(blob, 3);
  Settle();
  EXPECT_TRUE(offered->has_value() && (*offered)->ok());
  EXPECT_EQ(verifier_.bad[ChunkIndex(3)], 1) << "nobody looked";
}

TEST_F(BlobCacheTest, TheOnlyPlaceIsTakenAgainAsSoonAsItsFetchHasEnded) {
  BlobCacheLimits limits;
  limits.fetches_max[static_cast<size_t>(FetchClass::kBackfill)] = 1;
  Restart(limits);
  auto blob = AddBlob(64 * kChunk);
  std::optional<absl::Status> filled;
  cache_->Fill({.blob = blob->digest()}, [&](absl::Status status) { filled = std::move(status); });
  Settle();
  int fetches = 0;
  // The source says that it is done before what it sent has been stored, as most do.
  for (; !source_.calls.empty(); ++fetches) Serve();
  EXPECT_GT(fetches, 1);
  EXPECT_TRUE(filled.has_value() && filled->ok()) << blob->presence().present_count() << " chunks came";
}

TEST_F(BlobCacheTest, WhatAFetchHasBroughtMakesRoomBeforeItEnds) {
  BlobCacheLimits limits;
  limits.inflight_bytes_max = 64 * kChunk;
  Restart(limits);
  auto blob = AddBlob(64 * kChunk);
  auto read = Read(*blob, {0, 64 * kChunk});
  ASSERT_EQ(source_.calls.size(), 1u);
  FakeSource::Call call = source_.Take();
  for (uint32_t i = 0; i + 1 < call.request.chunks.count; ++i) call.Send(ChunkIndex(i));
  Settle();
  EXPECT_FALSE(source_.calls.empty());
}

// ------------------------------------------------------------------------------- destroyed within a callback

// Who is told something may destroy the cache: every way by which somebody is told.
class DestroyedWhileTellingTest : public ManySourcesTest {
 protected:
  // Destroys the cache when it is answered.
  Result LastRead(const Blob& blob, uint32_t index) {
    auto result = std::make_shared<std::optional<absl::StatusOr<ReadResult>>>();
    cache_->Read(
        {.blob = blob.digest(), .range = {uint64_t{index} * kChunk, 1}, .deadline = clock_.now + seconds(5)},
        [this, result](absl::StatusOr<ReadResult> r) {
          *result = std::move(r);
          cache_.reset();
        });
    Settle();
    return result;
  }
  // It goes in the middle of what waits, of a fill and of a pause.
  void ExpectAllAreTold(const std::function<void()>& tell) {
    const std::shared_ptr<Blob>& blob = blob_;
    const auto away = ReadChunk(*blob, 60);
    for (int i = 0; i < 2; ++i) {
      for (FakeSource* const source : {&home_, &holder_, &source_}) {
        source->Take().Fail(absl::UnavailableError("away"));
        Settle();
      }
    }
    std::optional<absl::Status> filled;
    cache_->Fill({.blob = blob->digest()}, [&](absl::Status status) { filled = std::move(status); });
    Settle();
    filling_ = std::move(home_.calls);
    home_.calls.clear();
    const auto before = ReadChunk(*blob, 50), last = LastRead(*blob, 50), after = ReadChunk(*blob, 50);
    tell();
    Settle();
    EXPECT_EQ(cache_, nullptr);
    EXPECT_TRUE(last->has_value());
    for (const Result& each : {before, after}) EXPECT_TRUE(each->has_value());
    EXPECT_TRUE(absl::IsCancelled((*away)->status())) << (*away)->status();
    ASSERT_TRUE(filled);
    EXPECT_TRUE(absl::IsCancelled(*filled)) << *filled;
    Pass(seconds(60));
    filling_.clear();
    for (FakeSource* const source : {&home_, &holder_, &source_}) source->calls.clear();
    for (const Result& each : {before, last, after}) each->reset();
    EXPECT_EQ(blob.use_count(), 2) << "the test and the store alone hold it";
    EXPECT_EQ(blob->lease_count(), 0u);
  }
  const std::shared_ptr<Blob> blob_ = AddBlob(64 * kChunk);
  std::deque<FakeSource::Call> filling_;
};

TEST_F(DestroyedWhileTellingTest, ThatAChunkHasCome) {
  ExpectAllAreTold([&] {
    while (!home_.calls.empty()) home_.Take().SendAll();
  });
}

TEST_F(DestroyedWhileTellingTest, ThatAChunkCanNotBeHad) {
  ExpectAllAreTold([&] {
    for (FakeSource* const source : {&home_, &holder_, &source_}) {
      while (!source->calls.empty()) {
        source->Take().Fail(absl::NotFoundError("lacks it"));
        Settle();
      }
    }
  });
}

TEST_F(DestroyedWhileTellingTest, ThatTheDeadlineHasPassed) {
  ExpectAllAreTold([&] { Pass(seconds(40)); });
}

TEST_F(DestroyedWhileTellingTest, ThatAChunkWasOffered) {
  ExpectAllAreTold([&] {
    cache_->Offer(blob_, ChunkIndex(50), Buffer(kChunk), Evidence::kVerified, SourceKind::kPeer,
                  [](absl::Status) {});
  });
}

TEST_F(DestroyedWhileTellingTest, ThatAFillHasEnded) {
  auto blob = AddBlob(2 * kChunk, 9);
  bool ended = false;
  cache_->Fill({.blob = blob->digest()}, [&](absl::Status status) {
    EXPECT_TRUE(status.ok()) << status;
    ended = true;
    cache_.reset();
  });
  Settle();
  while (!home_.calls.empty()) {
    home_.Take().SendAll();
    Settle();
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(cache_, nullptr);
}

}  // namespace
}  // namespace sluice
