#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "node/blob_cache.h"
#include "node/fill_flows.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using fakes::FakeClock;
using fakes::FakeSource;
using fakes::FakeVerifier;
using fakes::ManualExecutor;
using fakes::MemoryStore;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint32_t kChunk = kChunkSizeDefault;

// Fills of one chunk a fetch, of which two flow beside a reader at any time, unless a test says otherwise.
class FillsBesideReadsTest : public ::testing::Test {
 protected:
  FillsBesideReadsTest() { Restart(kChunk); }

  void Restart(uint32_t fetch_bytes_max, FillFlows::Limits fill_flows = {2, Duration(0)}) {
    BlobCacheLimits limits;
    limits.fill_flows = fill_flows;
    limits.fetch_bytes_max = fetch_bytes_max;
    limits.fetches_max = {64, 32, 256, 256};
    cache_.reset();
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, io_, store_, verifier_, sources_, telemetry_}, limits);
  }
  ~FillsBesideReadsTest() override { cache_.reset(); }

  std::shared_ptr<Blob> AddBlob(uint32_t chunks, uint8_t name = 7) {
    std::array<uint8_t, 32> bytes{};
    bytes[0] = name;
    return *store_.Open({.digest = Digest(bytes),
                         .size = uint64_t{chunks} * kChunk,
                         .chunk_size = kChunk,
                         .root = {},
                         .origins = {}});
  }
  void Fill(const Blob& blob, FetchClass fetch_class = FetchClass::kBackfill) {
    cache_->Fill({.blob = blob.digest(), .fetch_class = fetch_class},
                 [this](absl::Status status) { filled_ = std::move(status); });
    Settle();
  }
  // A reader's fetch becomes the last of the source's calls, if it is asked for.
  void Read(const Blob& blob, uint32_t index, Asker asker = Asker::kLocal) {
    cache_->Read({.blob = blob.digest(),
                  .range = {uint64_t{index} * kChunk, 1},
                  .deadline = clock_.now + seconds(30),
                  .asker = asker},
                 [this](absl::StatusOr<ReadResult> result) {
                   ++reads_ended_;
                   if (!result.ok()) read_error_ = result.status();
                 });
    Settle();
  }

  void Settle() {
    while (loop_.Run() + io_.Run() > 0) {
    }
  }
  void Pass(Duration time) {
    clock_.now += time;
    Settle();
  }
  // Some of the call's bytes come.
  void Flow(size_t call) {
    source_.calls[call].request.progress->Add(1000);
    Settle();
  }
  void FlowEach(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      clock_.now += milliseconds(1);
      Flow(i);
    }
  }
  // Fetches of fills of which bytes come.
  int Flowing() const {
    return static_cast<int>(
        std::count_if(source_.calls.begin(), source_.calls.end(), [](const FakeSource::Call& call) {
          return IsFill(call.request.fetch_class) && !call.control->cancelled &&
                 call.request.progress->bytes() > 0;
        }));
  }
  void EndCancelled() {
    for (size_t i = 0; i < source_.calls.size();) {
      if (!source_.calls[i].control->cancelled) {
        ++i;
        continue;
      }
      FakeSource::Call call = std::move(source_.calls[i]);
      source_.calls.erase(source_.calls.begin() + static_cast<std::ptrdiff_t>(i));
      call.Fail(absl::CancelledError("nobody wants it any more"));
      Settle();
    }
  }
  std::string Cancelled() const {
    std::string text;
    for (const FakeSource::Call& call : source_.calls) text += call.control->cancelled ? 'x' : '.';
    return text;
  }
  // As sources do: what was cancelled ends, all else brings what it was asked for.
  void AnswerAll() {
    while (!source_.calls.empty()) {
      FakeSource::Call call = source_.Take();
      if (call.control->cancelled) {
        call.Fail(absl::CancelledError("nobody wants it any more"));
      } else {
        call.SendAll();
      }
      Settle();
    }
  }

  FakeClock clock_;
  ManualExecutor loop_{clock_}, io_{clock_};
  MemoryStore store_;
  FakeVerifier verifier_;
  FakeSource source_;
  Telemetry telemetry_;
  FixedSources sources_{{{SourceRank::kOrigin, &source_}}};
  std::unique_ptr<BlobCache> cache_;
  std::optional<absl::Status> filled_;
  int reads_ended_ = 0;
  absl::Status read_error_;
};

TEST_F(FillsBesideReadsTest, WithoutAReaderAllOfThemFlow) {
  Fill(*AddBlob(20));
  ASSERT_EQ(source_.calls.size(), 20u);
  FlowEach(20);
  Pass(seconds(1));
  EXPECT_EQ(Cancelled(), std::string(20, '.'));
}

TEST_F(FillsBesideReadsTest, WhenAReaderComesTheTwoThatFlowForTheLongestGoOnAndOthersMakeRoom) {
  for (const FetchClass fetch_class : {FetchClass::kHint, FetchClass::kBackfill}) {
    const auto blob = AddBlob(20, fetch_class == FetchClass::kHint ? 1 : 2);
    blob->presence().Set(ChunkIndex(10));
    Fill(*blob, fetch_class);
    blob->presence().Clear(ChunkIndex(10));
    ASSERT_EQ(source_.calls.size(), 19u);
    FlowEach(6);
    Read(*blob, 10);
    ASSERT_EQ(source_.calls.size(), 20u);
    EXPECT_EQ(Cancelled(), "..xxxx..............") << "those without a byte take nothing of the link";
    AnswerAll();
    EXPECT_TRUE(filled_.has_value() && filled_->ok());
    EXPECT_EQ(reads_ended_, 1);
    EXPECT_TRUE(read_error_.ok()) << read_error_;
    EXPECT_TRUE(blob->presence().complete());
    filled_.reset();
    reads_ended_ = 0;
    Pass(seconds(10));
  }
}

TEST_F(FillsBesideReadsTest, WhatMadeRoomIsAskedForAgainAndCountsAsNoFailure) {
  const auto blob = AddBlob(20);
  Fill(*blob);
  FlowEach(20);
  // Three times a chunk that was asked for makes room: twice a source may fail, and no more.
  for (int round = 0; round < 3; ++round) {
    Read(*AddBlob(1, static_cast<uint8_t>(100 + round)), 0);
    std::deque<FakeSource::Call> calls = std::exchange(source_.calls, {});
    for (FakeSource::Call& call : calls) {
      if (call.control->cancelled) {
        call.Fail(absl::CancelledError("nobody wants it any more"));
      } else if (call.request.fetch_class == FetchClass::kDemand) {
        call.SendAll();
      } else {
        source_.calls.push_back(std::move(call));
      }
      Settle();
    }
    EXPECT_EQ(source_.calls.size(), 2u);
    Pass(FillFlows::kReaderKept);
    ASSERT_EQ(source_.calls.size(), 20u) << "round " << round;
    FlowEach(20);
  }
  AnswerAll();
  EXPECT_TRUE(filled_.has_value() && filled_->ok());
  EXPECT_EQ(reads_ended_, 3);
  EXPECT_TRUE(source_.blamed.empty());
}

TEST_F(FillsBesideReadsTest, WhatHasComeWholeOfOneThatMakesRoomIsKept) {
  Restart(4 * kChunk);
  const auto blob = AddBlob(16);
  const auto other = AddBlob(1, 8);
  Fill(*blob);
  ASSERT_EQ(source_.calls.size(), 4u);
  FlowEach(2);
  clock_.now += milliseconds(1);
  for (const size_t call : {2, 3}) source_.calls[call].Send(source_.calls[call].request.chunks.first);
  // The stored ones, and those that are being stored.
  Read(*other, 0);
  EXPECT_EQ(Cancelled(), "..xx.");
  EXPECT_TRUE(blob->presence().IsPresent(ChunkIndex(8)));
  EXPECT_TRUE(blob->presence().IsPresent(ChunkIndex(12)));
  for (const size_t call : {2, 3})
    std::move(source_.calls[call].on_done)(absl::CancelledError("nobody wants it any more"));
  source_.calls.erase(source_.calls.begin() + 2, source_.calls.begin() + 4);
  AnswerAll();
  EXPECT_TRUE(filled_.has_value() && filled_->ok());
  EXPECT_EQ(store_.commits, 17) << "nothing came twice";
}

TEST_F(FillsBesideReadsTest, BesideTheBeginningOfAPullTwoAreUnderWayAndOnceItIsThereAllOfThem) {
  const auto other = AddBlob(2, 8);
  Read(*other, 0, Asker::kRuntime);
  Fill(*AddBlob(20));
  ASSERT_EQ(source_.calls.size(), 3u) << "the pull's, and two";
  source_.Take().SendAll();
  Settle();
  EXPECT_EQ(source_.calls.size(), 20u);
}

TEST_F(FillsBesideReadsTest, TheBeginningOfAPullThatAReaderWaitsForTooIsARead) {
  const auto other = AddBlob(2, 8);
  Read(*other, 0, Asker::kRuntime);
  Read(*other, 0);
  Fill(*AddBlob(20));
  ASSERT_EQ(source_.calls.size(), 3u);
  source_.Take().SendAll();
  Settle();
  EXPECT_EQ(source_.calls.size(), 2u) << "the reader was seen";
  Pass(FillFlows::kReaderKept);
  EXPECT_EQ(source_.calls.size(), 20u);
}

TEST_F(FillsBesideReadsTest, WhatMakesRoomDoesSoForTheBeginningOfAPull) {
  const auto blob = AddBlob(20);
  Fill(*blob);
  FlowEach(6);
  Read(*AddBlob(1, 8), 0, Asker::kRuntime);
  EXPECT_EQ(Cancelled(), "..xxxx...............");
  AnswerAll();
}

TEST_F(FillsBesideReadsTest, WhatMakesRoomDoesSoForAFetchOfAFillThatAPullWaitsForNow) {
  const auto blob = AddBlob(20);
  Fill(*blob);
  FlowEach(6);
  Read(*blob, 10, Asker::kRuntime);
  EXPECT_EQ(Cancelled(), "..xxxx..............");
  AnswerAll();
  EXPECT_TRUE(filled_.has_value() && filled_->ok());
}

TEST_F(FillsBesideReadsTest, WhileAReaderWasSeenTwoAreUnderWayAndAfterwardsAllOfThem) {
  const auto blob = AddBlob(20);
  const auto other = AddBlob(2, 8);
  Read(*other, 0);
  Fill(*blob);
  ASSERT_EQ(source_.calls.size(), 3u) << "the reader's, and two";
  source_.Take().SendAll();
  Settle();
  EXPECT_EQ(reads_ended_, 1);
  // The next begins when one of the two is there.
  Pass(milliseconds(100));
  EXPECT_EQ(source_.calls.size(), 2u);
  source_.Take().SendAll();
  Settle();
  EXPECT_EQ(source_.calls.size(), 2u);
  Pass(milliseconds(900));
  FlowEach(2);
  Pass(FillFlows::kReaderKept - milliseconds(1003));
  EXPECT_EQ(source_.calls.size(), 2u);
  Pass(milliseconds(1));
  EXPECT_EQ(source_.calls.size(), 19u);
}

TEST_F(FillsBesideReadsTest, UnlessToldOtherwiseNoneFlowsBesideAReaderAndOneBetweenTwo) {
  Restart(kChunk, BlobCacheLimits().fill_flows);
  const auto blob = AddBlob(20);
  Fill(*blob);
  FlowEach(3);
  for (int round = 0; round < 8; ++round) {
    Read(*AddBlob(1, static_cast<uint8_t>(100 + round)), 0);
    ASSERT_EQ(source_.calls.back().request.fetch_class, FetchClass::kDemand);
    EXPECT_EQ(Flowing(), 0) << round;
    source_.calls.back().SendAll();
    source_.calls.pop_back();
    EndCancelled();
    Pass(FillFlows::kQuiet - milliseconds(1));
    EXPECT_EQ(Flowing(), 0) << round;
    Pass(milliseconds(1));
    FlowEach(source_.calls.size());
    EXPECT_EQ(Flowing(), 1) << round;
    Pass(milliseconds(400));
  }
  EXPECT_EQ(reads_ended_, 8);
  Pass(FillFlows::kReaderKept);
  AnswerAll();
  EXPECT_TRUE(filled_.has_value() && filled_->ok());
}

// A program that reads on leaves no time between.
TEST_F(FillsBesideReadsTest, WhereAReaderAlwaysWaitsFillsHaveTheirShare) {
  const FillFlows::Limits limits;
  Restart(kChunk, limits);
  Read(*AddBlob(1, 10), 0);
  const auto blob = AddBlob(20);
  Fill(*blob);
  Duration flowed{}, longest_without{}, without{};
  for (uint8_t name = 11; name < 210; ++name) {
    const auto at = std::find_if(
        source_.calls.begin(), source_.calls.end(),
        [](const FakeSource::Call& call) { return call.request.fetch_class == FetchClass::kDemand; });
    ASSERT_NE(at, source_.calls.end());
    FakeSource::Call call = std::move(*at);
    source_.calls.erase(at);
    Read(*AddBlob(1, name), 0);
    call.SendAll();
    Settle();
    EndCancelled();
    for (FakeSource::Call& fill : source_.calls)
      if (fill.request.fetch_class == FetchClass::kBackfill) fill.request.progress->Add(1);
    Settle();
    ASSERT_LE(Flowing(), 1);
    Pass(milliseconds(50));
    if (Flowing() == 1)
      flowed += milliseconds(50), without = Duration(0);
    else
      longest_without = std::max(longest_without, without += milliseconds(50));
  }
  EXPECT_LE(longest_without, limits.alone_max + milliseconds(100));
  EXPECT_GE(flowed, seconds(2)) << "of ten";
  EXPECT_LE(flowed, seconds(5));
}

TEST_F(FillsBesideReadsTest, AReaderThatWaitsForLongIsStillSeen) {
  const auto blob = AddBlob(20);
  Read(*AddBlob(1, 8), 0);
  Fill(*blob);
  for (int i = 0; i < 10; ++i) {
    for (FakeSource::Call& call : source_.calls) call.request.progress->Add(1);
    Pass(seconds(1));
  }
  EXPECT_EQ(source_.calls.size(), 3u);
}

TEST_F(FillsBesideReadsTest, WhoReadsWhatIsHereHoldsNothingUp) {
  const auto blob = AddBlob(20);
  const auto other = AddBlob(1, 8);
  other->presence().Set(ChunkIndex(0));
  Read(*other, 0);
  Fill(*blob);
  EXPECT_EQ(source_.calls.size(), 20u);
}

TEST_F(FillsBesideReadsTest, OneWhoseSourceWaitsItselfHoldsNoPlaceUntilItFlows) {
  const auto blob = AddBlob(20);
  Read(*AddBlob(1, 8), 0);
  Fill(*blob);
  ASSERT_EQ(source_.calls.size(), 3u);
  source_.calls[1].request.progress->Sign();
  Settle();
  ASSERT_EQ(source_.calls.size(), 4u);
  clock_.now += milliseconds(1);
  Flow(2);
  clock_.now += milliseconds(1);
  Flow(3);
  ASSERT_EQ(source_.calls.size(), 4u);
  clock_.now += milliseconds(1);
  Flow(1);
  EXPECT_EQ(Cancelled(), ".x..") << "two flow already";
}

TEST_F(FillsBesideReadsTest, ThoseThatAreSilentHoldNoPlace) {
  const auto blob = AddBlob(20);
  Read(*AddBlob(1, 8), 0);
  Fill(*blob);
  Flow(1);
  ASSERT_EQ(source_.calls.size(), 3u);
  Pass(SourcePlanner::kSilence - milliseconds(1));
  source_.calls[0].request.progress->Add(1);
  EXPECT_EQ(source_.calls.size(), 3u);
  Pass(milliseconds(1));
  EXPECT_EQ(source_.calls.size(), 5u) << "one flowed, and the other was not heard of";
}

TEST_F(FillsBesideReadsTest, AReaderDoesNotWaitForAllThatAFillBringsBefore) {
  Restart(16 * kChunk);
  const auto blob = AddBlob(16);
  Fill(*blob);
  ASSERT_EQ(source_.calls.size(), 1u);
  source_.calls[0].Send(ChunkIndex(0));
  Read(*blob, 9);
  ASSERT_EQ(source_.calls.size(), 2u);
  EXPECT_EQ(source_.calls[1].request.chunks, (ChunkSpan{ChunkIndex(9), 1}));
  EXPECT_EQ(source_.calls[1].request.fetch_class, FetchClass::kDemand);
  EXPECT_EQ(source_.calls[0].control->raised, std::nullopt);
  source_.calls[1].SendAll();
  source_.calls.pop_back();
  Settle();
  EXPECT_EQ(reads_ended_, 1);
  EXPECT_FALSE(source_.calls[0].control->cancelled);
  // What comes next anyhow is waited for.
  Read(*blob, 1);
  EXPECT_EQ(source_.calls.size(), 1u);
  EXPECT_EQ(source_.calls[0].control->raised, FetchClass::kDemand);
}

TEST_F(FillsBesideReadsTest, AFillEndsThoughReadersNeverDo) {
  const auto blob = AddBlob(60);
  const auto other = AddBlob(60, 8);
  Fill(*blob);
  for (uint32_t i = 0; i < 60 && !filled_; ++i) {
    Read(*other, i);
    std::deque<FakeSource::Call> calls = std::exchange(source_.calls, {});
    for (FakeSource::Call& call : calls) {
      clock_.now += milliseconds(10);
      if (call.control->cancelled) {
        call.Fail(absl::CancelledError("nobody wants it any more"));
      } else {
        call.SendAll();
      }
      Settle();
    }
  }
  EXPECT_TRUE(filled_.has_value() && filled_->ok());
}

// Whatever happens in whatever order: no more than two flow beside a reader, and all ends well.
TEST_F(FillsBesideReadsTest, SeedsHoldTheRule) {
  for (uint32_t seed = 1; seed <= 100; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](size_t bound) { return static_cast<size_t>(random() % bound); };
    Restart(static_cast<uint32_t>(1 + below(4)) * kChunk);
    filled_.reset();
    const auto blob = AddBlob(40, static_cast<uint8_t>(seed % 120 + 1));
    const auto other = AddBlob(40, static_cast<uint8_t>(seed % 120 + 128));
    for (const auto& filled : {blob, other}) {
      for (ChunkIndex i(0); i < filled->geometry().All().end(); i = i.next())
        ASSERT_TRUE(store_.Revoke(*filled, i).ok());
    }
    Fill(*blob, below(2) == 0 ? FetchClass::kHint : FetchClass::kBackfill);
    for (int step = 0; step < 200; ++step) {
      clock_.now += milliseconds(below(200));
      // What flows flows on: one that was silent and flows again is seen only with the next change.
      for (FakeSource::Call& call : source_.calls) {
        if (call.request.progress->bytes() > 0) call.request.progress->Add(1);
      }
      Settle();
      const size_t what = below(10);
      const size_t at = source_.calls.empty() ? 0 : below(source_.calls.size());
      if (what == 0 || source_.calls.empty()) {
        Read(*other, static_cast<uint32_t>(below(40)));
      } else if (FakeSource::Call& call = source_.calls[at]; what < 3) {
        call.request.progress->Sign();
      } else if (what < 7) {
        call.request.progress->Add(1);
      } else {
        if (call.control->cancelled) {
          call.Fail(absl::CancelledError("nobody wants it any more"));
        } else {
          call.SendAll();
        }
        source_.calls.erase(source_.calls.begin() + static_cast<std::ptrdiff_t>(at));
      }
      Settle();
      size_t readers = 0, flows = 0;
      for (const FakeSource::Call& call : source_.calls) {
        if (call.control->cancelled || call.control->raised) continue;
        if (call.request.fetch_class == FetchClass::kDemand) ++readers;
        if (IsFill(call.request.fetch_class) && call.request.progress->bytes() > 0) ++flows;
      }
      if (readers > 0) {
        ASSERT_LE(flows, 2u) << "seed " << seed << ", step " << step;
      }
    }
    AnswerAll();
    Pass(FillFlows::kReaderKept);
    AnswerAll();
    ASSERT_TRUE(filled_.has_value() && filled_->ok()) << "seed " << seed;
    ASSERT_TRUE(read_error_.ok()) << read_error_;
  }
}

// ------------------------------------------------------------------------------------------- hedges

class HedgeResultTest : public FillsBesideReadsTest {
 protected:
  HedgeResultTest() {
    cache_.reset();
    hedged_ = std::make_unique<FixedSources>(std::vector<FixedSources::Source>{
        {SourceRank::kHome, &home_}, {SourceRank::kHedge, &source_}, {SourceRank::kOrigin, &origin_}});
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, io_, store_, verifier_, *hedged_, telemetry_},
        BlobCacheLimits{.readahead_bytes_max = 0});
    // So that it is known when the home is late.
    for (uint32_t i = 0; i < 10; ++i) {
      Read(*blob_, i);
      clock_.now += milliseconds(10);
      home_.Take().SendAll();
      Settle();
    }
    Read(*blob_, 10);
    Pass(milliseconds(60));
  }
  ~HedgeResultTest() override { cache_.reset(); }

  uint64_t Count(HedgeResult result) const { return telemetry_.hedges[static_cast<size_t>(result)].value(); }

  FakeSource home_{SourceKind::kPeer}, origin_;
  std::unique_ptr<FixedSources> hedged_;
  const std::shared_ptr<Blob> blob_ = AddBlob(20);
};

TEST_F(HedgeResultTest, OneThatIsQuickerHasWon) {
  ASSERT_EQ(source_.calls.size(), 1u);
  source_.Take().SendAll();
  Settle();
  EXPECT_EQ(reads_ended_, 11);
  EXPECT_EQ(Count(HedgeResult::kWon), 1u);
  EXPECT_EQ(home_.outrun, 1);
  EXPECT_EQ(home_.outrun_stalled, 0) << "it was late, no more";
  EXPECT_EQ(source_.outrun, 0);
  home_.Take().Fail(absl::CancelledError("nobody wants it any more"));
  Settle();
  EXPECT_EQ(Count(HedgeResult::kLost) + Count(HedgeResult::kFailed), 0u);
}

TEST_F(HedgeResultTest, OneThatIsSlowerHasLost) {
  ASSERT_EQ(source_.calls.size(), 1u);
  home_.Take().SendAll();
  Settle();
  EXPECT_TRUE(source_.calls[0].control->cancelled);
  source_.Take().Fail(absl::CancelledError("nobody wants it any more"));
  Settle();
  EXPECT_EQ(source_.outrun, 0) << "it was asked later";
  EXPECT_EQ(Count(HedgeResult::kLost), 1u);
  EXPECT_EQ(Count(HedgeResult::kWon) + Count(HedgeResult::kFailed), 0u);
}

TEST_F(HedgeResultTest, OneThatHasItNotHasFailedAndTakeoversAreNotCounted) {
  ASSERT_EQ(source_.calls.size(), 1u);
  source_.Take().Fail(absl::NotFoundError("lacks it"));
  Settle();
  EXPECT_EQ(Count(HedgeResult::kFailed), 1u);
  Pass(SourcePlanner::kSilence);
  ASSERT_EQ(origin_.calls.size(), 1u);
  origin_.Take().SendAll();
  Settle();
  EXPECT_EQ(reads_ended_, 11);
  EXPECT_EQ(Count(HedgeResult::kWon) + Count(HedgeResult::kLost), 0u);
}

}  // namespace
}  // namespace sluice
