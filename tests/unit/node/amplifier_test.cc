#include "node/amplifier.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace sluice {
namespace {

using std::chrono::seconds;

std::shared_ptr<Blob> BlobOf(uint64_t chunks) {
  return std::make_shared<Blob>(
      BlobSpec{.digest = {}, .size = chunks * kChunkSizeDefault, .root = {}, .origins = {}});
}

// What is to be fetched ahead of a demand, if all of it is asked for at once.
ChunkSpan Ahead(Amplifier& amplifier, const std::shared_ptr<Blob>& blob, uint32_t demanded) {
  const std::shared_ptr<WorkSource> work =
      amplifier.Advance(blob, {ChunkIndex(demanded), 1}, Instant(), [] { return 0u; });
  return work ? work->Next(1000, Instant()).value_or(ChunkSpan{}) : ChunkSpan{};
}

TEST(AmplifierTest, WindowDoublesToItsLimit) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1000);
  std::vector<uint32_t> windows;
  for (uint32_t i = 0; i < 40; ++i) {
    const ChunkSpan ahead = Ahead(amplifier, blob, i);
    EXPECT_LE(ahead.end().value(), i + 1 + 8);
    if (ahead.count) {
      EXPECT_GT(ahead.first.value(), i);
      windows.push_back(ahead.end().value() - i - 1);
    }
  }
  ASSERT_GE(windows.size(), 5u);
  EXPECT_EQ(windows[0], 1u);
  EXPECT_EQ(windows.back(), 8u);
}

TEST(AmplifierTest, ManyStreamsAreKeptApart) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1000);
  for (uint32_t base : {0u, 100u, 250u}) EXPECT_EQ(Ahead(amplifier, blob, base).count, 0u);
  for (uint32_t base : {0u, 100u, 250u})
    EXPECT_EQ(Ahead(amplifier, blob, base + 1), (ChunkSpan{ChunkIndex(base + 2), 1}));
}

TEST(AmplifierTest, StreamThatWasContinuedLongestAgoIsForgotten) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kFixed, 8 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1 << 21);
  const auto advance = [&](size_t stream, uint32_t offset) {
    return Ahead(amplifier, blob, (16u << stream) + offset).count;
  };
  for (size_t stream = 0; stream <= Amplifier::kStreamsPerBlobMax; ++stream)
    EXPECT_EQ(advance(stream, 0), 0u);
  for (size_t stream = 1; stream <= Amplifier::kStreamsPerBlobMax; ++stream)
    EXPECT_EQ(advance(stream, 1), 8u);
  EXPECT_EQ(advance(0, 1), 0u) << "one stream more than the bound was kept";
}

TEST(AmplifierTest, BlobThatWasReadLongestAgoIsForgotten) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  std::vector<std::shared_ptr<Blob>> blobs;
  for (size_t i = 0; i <= Amplifier::kBlobsMax; ++i) blobs.push_back(BlobOf(4));
  const auto advance = [&](size_t number, uint32_t index) {
    return Ahead(amplifier, blobs[number], index).count;
  };
  for (size_t blob = 0; blob <= Amplifier::kBlobsMax; ++blob) EXPECT_EQ(advance(blob, 0), 0u);
  for (size_t blob = 1; blob <= Amplifier::kBlobsMax; ++blob) EXPECT_EQ(advance(blob, 1), 1u) << blob;
  EXPECT_EQ(advance(0, 1), 0u) << "one blob more than the bound was kept";
}

TEST(AmplifierTest, StopsAtTheEndOfTheBlob) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(4);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_LE(Ahead(amplifier, blob, i).end().value(), 4u);
}

TEST(AmplifierTest, WhatWasReadOrCameBeforeItIsAskedForIsPassedOver) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kFixed, 8 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1000);
  std::shared_ptr<WorkSource> work;
  for (uint32_t i = 0; i < 8; ++i) {
    if (auto ahead = amplifier.Advance(blob, {ChunkIndex(i), 1}, Instant(), [] { return 0u; })) work = ahead;
  }
  blob->presence().Set(ChunkIndex(8));
  blob->presence().Set(ChunkIndex(10));
  EXPECT_EQ(work->Next(4, Instant()), (ChunkSpan{ChunkIndex(9), 1}));
  EXPECT_EQ(work->Next(2, Instant()), (ChunkSpan{ChunkIndex(11), 2}));
}

TEST(AmplifierTest, AnotherBlobAtTheSameAddressHasItsOwnStreams) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  auto blob = BlobOf(1000);
  Ahead(amplifier, blob, 0);
  const std::shared_ptr<WorkSource> work =
      amplifier.Advance(blob, {ChunkIndex(1), 1}, Instant(), [] { return 0u; });
  ASSERT_TRUE(work);
  blob.reset();
  EXPECT_EQ(work->Next(8, Instant()), std::nullopt) << "an idle stream keeps no blob";
  blob = BlobOf(2);
  EXPECT_EQ(Ahead(amplifier, blob, 0).count, 0u);
}

TEST(AmplifierTest, HoweverManyBlobsAreReadOnlySoManyAreRemembered) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  std::vector<std::shared_ptr<Blob>> blobs;
  for (size_t i = 0; i < Amplifier::kBlobsMax + 10; ++i) {
    blobs.push_back(BlobOf(4));
    Ahead(amplifier, blobs.back(), 0);
  }
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(Ahead(amplifier, blobs[i], 1).count, 0u) << i;
}

// A program on a node whose door reports only reads of absent chunks, and sources that answer at once.
class Program {
 public:
  Program(ReadaheadMode mode, uint32_t chunks, uint32_t window = 32)
      : blob_(BlobOf(chunks)), amplifier_({mode, uint64_t{window} * kChunkSizeDefault}, telemetry_) {}

  void Read(uint32_t first, uint32_t count = 1) {
    const ChunkSpan span{ChunkIndex(first), count};
    for (ChunkIndex index = span.first; index < span.end(); index = index.next())
      touched_.insert(index.value());
    if (blob_->presence().AllPresent(span)) {
      if (sees_present_reads) amplifier_.Touched(blob_, SetOf(span));
      return;
    }
    ++misses_;
    const auto work = amplifier_.Advance(blob_, span, now_, [this] { return per_trip; });
    Store(span);
    while (work) {
      const std::optional<ChunkSpan> ahead = work->Next(1000, now_);
      if (!ahead) return;
      EXPECT_LE(ahead->end().value(), blob_->geometry().chunk_count());
      EXPECT_EQ(blob_->presence().FirstAbsent(*ahead, 1000), *ahead) << "asked for what is there";
      requests_ += 1;
      ahead_ += ahead->count;
      Store(*ahead);
      work->Ended(*ahead, absl::OkStatus());
    }
  }
  void Pass(Duration time) { now_ += time; }

  uint32_t per_trip = 0;            // chunks that a round trip is worth
  bool sees_present_reads = false;  // as the keeper tells of them

  uint32_t misses() const { return misses_; }
  uint32_t requests() const { return requests_; }
  uint32_t ahead() const { return ahead_; }
  double fetched_over_touched() const {
    return static_cast<double>(blob_->presence().present_count()) / static_cast<double>(touched_.size());
  }
  uint64_t Chunks(ReadaheadResult result) const {
    return telemetry_.readahead_bytes[static_cast<size_t>(result)].value() / kChunkSizeDefault;
  }

 private:
  void Store(ChunkSpan span) {
    for (ChunkIndex index = span.first; index < span.end(); index = index.next())
      blob_->presence().Set(index);
  }
  ChunkSet SetOf(ChunkSpan span) const {
    ChunkSet set(blob_->geometry().chunk_count());
    for (ChunkIndex index = span.first; index < span.end(); index = index.next()) set.Add(index);
    return set;
  }

  Telemetry telemetry_;
  std::shared_ptr<Blob> blob_;
  Amplifier amplifier_;
  Instant now_{seconds(1)};
  std::set<uint32_t> touched_;
  uint32_t misses_ = 0, requests_ = 0, ahead_ = 0;
};

TEST(AmplifierTest, ALoneDemandGetsWhatARoundTripIsWorthOfWhatFollows) {
  for (const uint32_t per_trip : {0u, 1u, 2u, Amplifier::kExtrasMax, 100u}) {
    Program program(ReadaheadMode::kAdaptive, 100);
    program.per_trip = per_trip;
    program.Read(10);
    EXPECT_EQ(program.ahead(), std::min(per_trip, Amplifier::kExtrasMax));
    EXPECT_LE(program.requests(), 1u);
    program.Read(98);
    EXPECT_LE(program.ahead(), std::min(per_trip, Amplifier::kExtrasMax) + 1) << "the blob ends";
  }
  for (const ReadaheadMode mode : {ReadaheadMode::kOff, ReadaheadMode::kFixed}) {
    Program program(mode, 100);
    program.per_trip = 3;
    program.Read(10);
    EXPECT_EQ(program.ahead(), 0u);
  }
}

TEST(AmplifierTest, WhatNobodyReadsBehindDemandsIsNotAskedForForLong) {
  Program program(ReadaheadMode::kAdaptive, 1 << 23);
  program.per_trip = 2;
  program.sees_present_reads = true;
  for (uint32_t i = 3; i < 200; ++i) program.Read(i * i * i);  // of cubes no three are equally far apart
  EXPECT_LE(program.ahead(), Amplifier::kExtrasTrust + 1);
  EXPECT_LE(program.fetched_over_touched(), 1.1);
}

TEST(AmplifierTest, WhatIsReadBehindDemandsHalvesTheRoundTrips) {
  Program without(ReadaheadMode::kAdaptive, 1 << 23), with(ReadaheadMode::kAdaptive, 1 << 23);
  with.per_trip = 2;
  with.sees_present_reads = true;
  // Three chunks each, two of them later.
  for (Program* const program : {&without, &with}) {
    for (uint32_t i = 10; i < 200; ++i) {
      program->Read(i * i * i);
      program->Read((i - 5) * (i - 5) * (i - 5) + 2);
      program->Read((i - 7) * (i - 7) * (i - 7) + 1);
    }
  }
  EXPECT_LE(with.misses(), without.misses() / 2);
  EXPECT_EQ(with.Chunks(ReadaheadResult::kFetched), with.ahead());
  EXPECT_GE(with.Chunks(ReadaheadResult::kUsed), with.ahead() * 9 / 10);
}

TEST(AmplifierTest, WhoReadsWhatFollowsIsAStream) {
  for (const bool unseen : {true, false}) {
    Program program(ReadaheadMode::kAdaptive, 2000);
    program.per_trip = 3;
    program.sees_present_reads = !unseen;
    for (uint32_t i = 0; i < 2000; ++i) program.Read(i);
    EXPECT_EQ(program.fetched_over_touched(), 1.0);
    EXPECT_LE(program.misses(), 200u) << unseen;
    EXPECT_GE(program.Chunks(ReadaheadResult::kUsed), program.ahead() * 9 / 10);
  }
}

TEST(AmplifierTest, WhoGoesOnBehindWhatCameWithADemandIsAStream) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1000);
  const auto first = amplifier.Advance(blob, {ChunkIndex(10), 1}, Instant(), [] { return 3u; });
  ASSERT_EQ(first->Next(1000, Instant()), (ChunkSpan{ChunkIndex(11), 3}));
  for (uint32_t index = 10; index < 14; ++index) blob->presence().Set(ChunkIndex(index));
  const auto then = amplifier.Advance(blob, {ChunkIndex(14), 1}, Instant(), [] { return 3u; });
  EXPECT_EQ(then->Next(1000, Instant()), (ChunkSpan{ChunkIndex(15), 1})) << "the window of a stream";
}

TEST(AmplifierTest, WhatDidNotComeBehindADemandIsAskedForAnew) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1 << 23);
  const auto per_trip = [] { return 3u; };
  for (uint32_t i = 2; i < 10 * Amplifier::kExtrasTrust; ++i) {
    const auto work = amplifier.Advance(blob, {ChunkIndex(i * i * i), 1}, Instant(), per_trip);
    ASSERT_TRUE(work) << "what did not come has cost nothing";
    const std::optional<ChunkSpan> extras = work->Next(1000, Instant());
    ASSERT_TRUE(extras);
    ASSERT_EQ(*extras, (ChunkSpan{ChunkIndex(i * i * i + 1), 3}));
    work->Ended(*extras, absl::UnavailableError("the registry is away"));
  }
}

// The places and lengths of runs as a seed says, as tests/bench/replay_reads.py has them.
void ReadShortRuns(Program& program, uint32_t seed, uint32_t chunks_of_blob, uint32_t runs) {
  std::mt19937 random(seed);
  std::vector<uint32_t> starts;
  for (uint32_t start = 0; start + 4 < chunks_of_blob; start += 4) starts.push_back(start);
  std::shuffle(starts.begin(), starts.end(), random);
  for (uint32_t run = 0; run < runs; ++run) {
    const uint32_t length = 1u << random() % 3;
    for (uint32_t i = 0; i < length; ++i) program.Read(starts[run] + i);
  }
}

TEST(AmplifierTest, WhereRunsAreShortLittleIsFetchedThatIsNotRead) {
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    Program program(ReadaheadMode::kAdaptive, 512);
    ReadShortRuns(program, seed, 512, 54);
    EXPECT_LE(program.fetched_over_touched(), 1.10) << "seed " << seed;
  }
}

TEST(AmplifierTest, WhereReadsAreAtRandomHardlyAnythingIsFetchedAhead) {
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    Program program(ReadaheadMode::kAdaptive, 4096);
    std::mt19937 random(seed);
    for (int i = 0; i < 200; ++i) program.Read(static_cast<uint32_t>(random() % 4096));
    EXPECT_LE(program.fetched_over_touched(), 1.05) << "seed " << seed;
  }
}

TEST(AmplifierTest, ALongStreamGetsTheWidestWindowAndFewRequests) {
  Program program(ReadaheadMode::kAdaptive, 1024);
  for (uint32_t i = 0; i < 1024; ++i) program.Read(i);
  // Each window is asked for when the one before has been read unseen: the demand is a request of its own.
  EXPECT_LE(program.requests() + program.misses(), 75u);
  EXPECT_EQ(program.fetched_over_touched(), 1.0);
}

// Each of its reads waits, and a request gets no more than there is room for.
TEST(AmplifierTest, AStreamThatIsQuickerThanItsSourceIsAskedForInLongRuns) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 32 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1024);
  uint32_t requests = 0, short_ones = 0, asked_end = 0;
  for (uint32_t i = 0; i < 1024; ++i) {
    const auto work = amplifier.Advance(blob, {ChunkIndex(i), 1}, Instant(), [] { return 0u; });
    while (work) {
      const std::optional<ChunkSpan> ahead = work->Next(31 - (asked_end - std::min(asked_end, i)), Instant());
      if (!ahead) break;
      requests += 1;
      short_ones += i > 64 && ahead->count < 8 ? 1 : 0;
      asked_end = ahead->end().value();
    }
    blob->presence().Set(ChunkIndex(i));
  }
  EXPECT_EQ(asked_end, 1024u);
  EXPECT_LE(requests, 1024u / 16);
  EXPECT_LE(short_ones, 1u) << "the last may be";
}

// How much of what was asked for a long stream has not come yet when the next is asked for, at most.
uint32_t LeftWhenTheNextIsAskedFor(uint32_t per_trip) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 32 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1024);
  uint32_t asked_end = 0, left_most = 0;
  for (uint32_t i = 0; i < 1000; ++i) {
    const auto work = amplifier.Advance(blob, {ChunkIndex(i), 1}, Instant(), [&] { return per_trip; });
    while (work) {
      const std::optional<ChunkSpan> ahead = work->Next(32, Instant());
      if (!ahead) break;
      if (i > 100) left_most = std::max(left_most, asked_end - (i + 1));
      asked_end = ahead->end().value();
    }
    blob->presence().Set(ChunkIndex(i));
  }
  EXPECT_GE(asked_end, 1000u);
  return left_most;
}

TEST(AmplifierTest, TheNextOfALongStreamIsAskedForAboutTwoRoundTripsAhead) {
  EXPECT_EQ(LeftWhenTheNextIsAskedFor(1), 4u);
  EXPECT_EQ(LeftWhenTheNextIsAskedFor(3), 8u);
  EXPECT_EQ(LeftWhenTheNextIsAskedFor(40), 12u) << "there is a bound";
  EXPECT_EQ(LeftWhenTheNextIsAskedFor(0), 12u) << "where it is not known, rather too early";
}

TEST(AmplifierTest, InterleavedLongStreamsOfABlobAreEachReadAhead) {
  Program program(ReadaheadMode::kAdaptive, 4096);
  for (uint32_t i = 0; i < 512; ++i) {
    for (uint32_t stream = 0; stream < 6; ++stream) program.Read(600 * stream + i);
  }
  EXPECT_LE(program.misses(), 6u * 512 / 4);
}

TEST(AmplifierTest, BackwardStreamsAreReadAhead) {
  Program program(ReadaheadMode::kAdaptive, 512);
  for (uint32_t i = 512; i-- > 0;) program.Read(i);
  EXPECT_LE(program.misses(), 512u / 8);
  EXPECT_EQ(program.fetched_over_touched(), 1.0);
}

TEST(AmplifierTest, StridedStreamsAreReadAheadAndNothingBetween) {
  for (const bool backward : {false, true}) {
    Program program(ReadaheadMode::kAdaptive, 2048);
    for (uint32_t i = 0; i < 256; ++i) program.Read(8 * (backward ? 255 - i : i));
    EXPECT_LE(program.misses(), 256u / 4) << backward;
    EXPECT_EQ(program.fetched_over_touched(), 1.0) << backward;
  }
}

TEST(AmplifierTest, AfterWasteTheWindowsGrowAgainWhereReadingAheadPays) {
  Program program(ReadaheadMode::kAdaptive, 4096);
  ReadShortRuns(program, 1, 2048, 400);
  const uint32_t misses = program.misses();
  for (uint32_t i = 2048; i < 2048 + 512; ++i) program.Read(i);
  EXPECT_LE(program.misses() - misses, 512u / 4);
}

TEST(AmplifierTest, FixedReadsTheWidestWindowAheadFromTheSecondDemand) {
  Program program(ReadaheadMode::kFixed, 512, 8);
  program.Read(0);
  EXPECT_EQ(program.ahead(), 0u);
  program.Read(1);
  EXPECT_EQ(program.ahead(), 8u);
}

TEST(AmplifierTest, OffReadsNothingAhead) {
  Program program(ReadaheadMode::kOff, 512);
  for (uint32_t i = 0; i < 100; ++i) program.Read(i);
  EXPECT_EQ(program.ahead(), 0u);
}

TEST(AmplifierTest, WhatWasReadAheadIsUsedOrUnreadWhenItsStreamIsGivenUp) {
  Program program(ReadaheadMode::kAdaptive, 512);
  for (uint32_t i = 0; i < 4; ++i) program.Read(i);
  EXPECT_EQ(program.Chunks(ReadaheadResult::kFetched), program.ahead());
  EXPECT_EQ(program.Chunks(ReadaheadResult::kUsed), 1u) << "chunk 2, which chunk 3 was read after";
  EXPECT_EQ(program.Chunks(ReadaheadResult::kUnread), 0u);
  program.Pass(Amplifier::kIdleMax + seconds(1));
  program.Read(300);
  EXPECT_EQ(program.Chunks(ReadaheadResult::kUnread), program.ahead() - 1);
}

TEST(AmplifierTest, WhatCouldNotBeHadIsNotHeldAgainstTheStream) {
  Telemetry telemetry;
  Amplifier amplifier({ReadaheadMode::kAdaptive, 8 * kChunkSizeDefault}, telemetry);
  const auto blob = BlobOf(1000);
  for (uint32_t stream = 0; stream < 50; ++stream) {
    Ahead(amplifier, blob, 10 * stream);
    const auto work = amplifier.Advance(blob, {ChunkIndex(10 * stream + 1), 1}, Instant(), [] { return 0u; });
    ASSERT_TRUE(work) << stream;
    const std::optional<ChunkSpan> ahead = work->Next(8, Instant());
    ASSERT_TRUE(ahead) << stream;
    work->Ended(*ahead, absl::UnavailableError("the registry is down"));
  }
}

}  // namespace
}  // namespace sluice
