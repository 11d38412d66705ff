#include "node/daemon/background_fill.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "node/daemon/served_counts.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class BackgroundFillTest : public ::testing::Test {
 protected:
  BackgroundFillTest() {
    std::array<uint8_t, 32> name{1};
    blob_ = *store_.Open({.digest = Digest(name), .size = 10 << 20, .root = {}, .origins = {}});
  }

  void Settle() {
    while (loop_.Run() + io_.Run() > 0) {
    }
  }
  void Pass(Duration time) {
    clock_.now += time;
    Settle();
  }
  void AnswerAll(const absl::Status& status) {
    while (!source_.calls.empty()) {
      fakes::FakeSource::Call call = source_.Take();
      if (status.ok()) {
        call.SendAll();
      } else {
        call.Fail(status);
      }
      Settle();
    }
  }
  void Start(FetchClass fetch_class = FetchClass::kBackfill, FillOwner owner = FillOwner::kMounts,
             BackgroundFill::OnTry on_try = nullptr) {
    fill_->Start(blob_->digest(), fetch_class, owner, std::move(on_try));
  }
  void Stop(FillOwner owner = FillOwner::kMounts) { fill_->Stop(blob_->digest(), owner); }
  BackgroundFill::OnTry NoteTo(std::vector<absl::Status>& tries) {
    return [&tries](const absl::Status& status) { tries.push_back(status); };
  }
  api::FillState State() const { return fill_->Of(blob_->digest()).state; }

  fakes::FakeClock clock_;
  fakes::ManualExecutor loop_{clock_}, io_{clock_};
  fakes::MemoryStore store_;
  fakes::FakeVerifier verifier_;
  fakes::FakeSource source_;
  Telemetry telemetry_;
  FixedSources sources_{{{SourceRank::kOrigin, &source_}}};
  BlobCache cache_{{clock_, loop_, io_, store_, verifier_, sources_, telemetry_}, {}};
  std::shared_ptr<Blob> blob_;
  std::unique_ptr<BackgroundFill> fill_ =
      std::make_unique<BackgroundFill>(clock_, loop_, cache_, BackgroundFill::Limits{seconds(1), seconds(4)});
};

TEST_F(BackgroundFillTest, TriesAgainEverMoreSlowlyUntilTheBlobIsWhole) {
  EXPECT_EQ(State(), api::FillState::kIdle);
  Start();
  Settle();
  EXPECT_EQ(State(), api::FillState::kFilling);
  for (const Duration wait : {seconds(1), seconds(2), seconds(4), seconds(4)}) {
    AnswerAll(absl::UnavailableError("registry is down"));
    EXPECT_EQ(State(), api::FillState::kFailed);
    EXPECT_EQ(fill_->Of(blob_->digest()).error, "registry is down");
    Pass(wait - std::chrono::milliseconds(1));
    EXPECT_TRUE(source_.calls.empty());
    Pass(std::chrono::milliseconds(1));
    EXPECT_FALSE(source_.calls.empty());
  }
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(State(), api::FillState::kComplete);
  EXPECT_TRUE(blob_->presence().complete());
}

TEST_F(BackgroundFillTest, StartingTwiceFetchesOnce) {
  Start();
  Start();
  Settle();
  std::multiset<ChunkIndex> asked;
  while (!source_.calls.empty()) {
    fakes::FakeSource::Call call = source_.Take();
    for (ChunkIndex i = call.request.chunks.first; i < call.request.chunks.end(); i = i.next())
      asked.insert(i);
    call.SendAll();
    Settle();
  }
  EXPECT_EQ(asked.size(), blob_->geometry().chunk_count());
  EXPECT_EQ(std::set(asked.begin(), asked.end()).size(), asked.size()) << "a chunk was asked for twice";
  EXPECT_EQ(State(), api::FillState::kComplete);
}

TEST_F(BackgroundFillTest, AStoppedFillLetsTheBlobGo) {
  Start();
  Settle();
  Stop();
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(State(), api::FillState::kIdle);
  EXPECT_EQ(blob_->lease_count(), 0u);
  EXPECT_FALSE(blob_->presence().complete());
  Pass(seconds(100));
  EXPECT_TRUE(source_.calls.empty());
}

TEST_F(BackgroundFillTest, ALateAnswerDoesNotTouchAFillThatWasStartedAnew) {
  Start();
  Settle();
  Stop();
  Start();
  AnswerAll(absl::UnavailableError("of the first"));
  Pass(seconds(1));
  AnswerAll(absl::OkStatus());
  Pass(seconds(10));
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(State(), api::FillState::kComplete);
}

TEST_F(BackgroundFillTest, NothingIsTriedOnceItIsGone) {
  Start();
  Settle();
  fill_.reset();
  AnswerAll(absl::UnavailableError("registry is down"));
  Pass(seconds(100));
  EXPECT_TRUE(source_.calls.empty());
}

TEST_F(BackgroundFillTest, DrainedWhatOnlyMountsWantIsNotBroughtIn) {
  Start();
  Settle();
  ASSERT_FALSE(source_.calls.empty());
  fill_->SetDrain(api::DrainState::kDrained);
  Settle();
  for (const fakes::FakeSource::Call& call : source_.calls) EXPECT_TRUE(call.control->cancelled);
  AnswerAll(absl::CancelledError("nobody wants it any more"));
  EXPECT_EQ(State(), api::FillState::kIdle);
  EXPECT_EQ(blob_->lease_count(), 0u);
  Pass(seconds(100));
  EXPECT_TRUE(source_.calls.empty());
  // Mounted meanwhile.
  Stop();
  Start();
  Settle();
  EXPECT_EQ(State(), api::FillState::kIdle);
  EXPECT_TRUE(source_.calls.empty());
  // Somebody waits for it, for a while.
  const auto hold = [this] {
    return std::make_unique<BackgroundFill::Hold>(*fill_, blob_->digest(), FetchClass::kBackfill, nullptr);
  };
  auto held = hold();
  Settle();
  EXPECT_EQ(State(), api::FillState::kFilling);
  held.reset();
  Settle();
  EXPECT_EQ(State(), api::FillState::kIdle);
  for (const fakes::FakeSource::Call& call : source_.calls) EXPECT_TRUE(call.control->cancelled);
  AnswerAll(absl::CancelledError("nobody wants it any more"));
  held = hold();
  Settle();
  EXPECT_EQ(State(), api::FillState::kFilling);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(State(), api::FillState::kComplete);
}

TEST_F(BackgroundFillTest, NoLongerDrainedItGoesOn) {
  fill_->SetDrain(api::DrainState::kDrained);
  Start();
  Settle();
  EXPECT_TRUE(source_.calls.empty());
  fill_->SetDrain(api::DrainState::kServing);
  Settle();
  EXPECT_EQ(State(), api::FillState::kFilling);
  const size_t asked = source_.calls.size();
  EXPECT_GT(asked, 0u);
  fill_->SetDrain(api::DrainState::kServing);
  Settle();
  EXPECT_EQ(source_.calls.size(), asked) << "what goes on is not begun anew";
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(State(), api::FillState::kComplete);
}

TEST_F(BackgroundFillTest, GoesOnUntilTheLastWhoWantsItHasStopped) {
  const FillOwner hint = fill_->NewOwner(), other = fill_->NewOwner();
  EXPECT_NE(hint, other);
  EXPECT_NE(hint, FillOwner::kMounts);
  Start();
  Start(FetchClass::kBackfill, hint);
  Stop(other);  // it never wanted it
  Settle();
  Stop();
  Stop();
  EXPECT_EQ(State(), api::FillState::kFilling);
  Stop(hint);
  EXPECT_EQ(State(), api::FillState::kIdle);
  AnswerAll(absl::OkStatus());
  EXPECT_FALSE(blob_->presence().complete());
}

TEST_F(BackgroundFillTest, IsHeldForAsLongAsSomebodyLives) {
  auto hold = std::make_unique<BackgroundFill::Hold>(*fill_, blob_->digest(), FetchClass::kHint);
  Settle();
  EXPECT_EQ(State(), api::FillState::kFilling);
  hold.reset();
  Settle();
  EXPECT_EQ(State(), api::FillState::kIdle);
}

// Who waits for a read when the node ends is let go by the cache, which goes after the fills.
TEST_F(BackgroundFillTest, WhoHoldsOneMayOutliveAll) {
  BackgroundFill::Hold hold(*fill_, blob_->digest(), FetchClass::kHint);
  Settle();
  fill_.reset();
}

TEST_F(BackgroundFillTest, EachOwnerIsToldOfEachTry) {
  std::vector<absl::Status> first, second;
  const FillOwner one = fill_->NewOwner(), two = fill_->NewOwner();
  Start(FetchClass::kHint, one, NoteTo(first));
  Settle();
  Start(FetchClass::kHint, two, NoteTo(second));
  AnswerAll(absl::UnavailableError("registry is down"));
  EXPECT_THAT(first, ElementsAre(absl::UnavailableError("registry is down")));
  EXPECT_THAT(second, ElementsAre(absl::UnavailableError("registry is down")));
  Stop(one);
  Pass(seconds(1));
  AnswerAll(absl::OkStatus());
  EXPECT_THAT(first, SizeIs(1));
  EXPECT_THAT(second, ElementsAre(absl::UnavailableError("registry is down"), absl::OkStatus()));
}

TEST_F(BackgroundFillTest, WhoWantsAWholeBlobIsToldThatItIs) {
  Start();
  Settle();
  AnswerAll(absl::OkStatus());
  std::vector<absl::Status> tries;
  Start(FetchClass::kHint, fill_->NewOwner(), NoteTo(tries));
  Settle();
  EXPECT_THAT(tries, ElementsAre(absl::OkStatus()));
}

TEST_F(BackgroundFillTest, AHigherClassTakesTheFillAlong) {
  Start();
  Settle();
  std::vector<absl::Status> tries;
  Start(FetchClass::kHint, fill_->NewOwner(), NoteTo(tries));
  Settle();
  for (int step = 0; step < 2; ++step) {  // asked for before
    source_.Take().SendAll();
    Settle();
  }
  ASSERT_FALSE(source_.calls.empty());
  EXPECT_EQ(source_.calls.front().request.fetch_class, FetchClass::kHint);
  AnswerAll(absl::OkStatus());
  EXPECT_THAT(tries, ElementsAre(absl::OkStatus()));
  EXPECT_EQ(State(), api::FillState::kComplete);
}

TEST_F(BackgroundFillTest, SomebodyNewNeedNotWaitForTheNextTry) {
  Start();
  Settle();
  for (int i = 0; i < 3; ++i) {
    AnswerAll(absl::UnavailableError("registry is down"));
    Pass(seconds(4));
  }
  AnswerAll(absl::UnavailableError("registry is down"));
  EXPECT_TRUE(source_.calls.empty());
  Start(FetchClass::kHint, fill_->NewOwner());
  Settle();
  EXPECT_FALSE(source_.calls.empty());
}

TEST_F(BackgroundFillTest, AFillAfterOneThatIsStoppedHasNothingOfIt) {
  Start();
  Settle();
  const size_t stopped = source_.calls.size();
  Stop();
  std::vector<absl::Status> tries;
  Start(FetchClass::kHint, fill_->NewOwner(), NoteTo(tries));
  Settle();
  for (size_t i = 0; i < stopped; ++i) {
    fakes::FakeSource::Call call = source_.Take();
    EXPECT_TRUE(call.control->cancelled);
    call.Fail(absl::CancelledError("nobody wants it"));
  }
  Settle();
  EXPECT_THAT(tries, IsEmpty());
  EXPECT_EQ(State(), api::FillState::kFilling);
  AnswerAll(absl::OkStatus());
  EXPECT_THAT(tries, ElementsAre(absl::OkStatus()));
}

TEST_F(BackgroundFillTest, AStoppedFillsLeaseIsGoneBeforeWhatIsUnderWayHasEnded) {
  Start();
  Settle();
  EXPECT_EQ(blob_->lease_count(), 1u);
  Stop();
  Settle();
  EXPECT_EQ(blob_->lease_count(), 0u);
  EXPECT_TRUE(store_.Evict(blob_->digest()).ok());
  AnswerAll(absl::OkStatus());
}

TEST(ServedCountsTest, ErrorsAreLoggedOnceASecondWithTheirNumber) {
  ServedCounts counts;
  const Digest digest;
  const Instant start{};
  counts.Note(digest, 5, absl::UnavailableError("why"));
  EXPECT_EQ(counts.ErrorsToLog(digest, start), 1u);
  for (int i = 0; i < 3; ++i) {
    counts.Note(digest, 5, absl::UnavailableError("why"));
    EXPECT_EQ(counts.ErrorsToLog(digest, start + std::chrono::milliseconds(999)), 0u);
  }
  EXPECT_EQ(counts.ErrorsToLog(digest, start + std::chrono::seconds(1)), 3u);
}

TEST(ServedCountsTest, AddsUpByBlobAndSource) {
  ServedCounts counts;
  const Digest digest;
  counts.Note(digest, 100, ReadResult{SourceKind::kOrigin});
  counts.Note(digest, 20, ReadResult{SourceKind::kLocal});
  counts.Note(digest, 5, absl::UnavailableError("why"));
  const ServedCounts::Counts found = counts.Of(digest);
  EXPECT_EQ(found.totals.bytes[static_cast<size_t>(SourceKind::kOrigin)], 100u);
  EXPECT_EQ(found.totals.reads[static_cast<size_t>(SourceKind::kLocal)], 1u);
  EXPECT_EQ(found.errors, 1u);
  EXPECT_EQ(found.last_error, "why");
  counts.Forget(digest);
  EXPECT_EQ(counts.Of(digest).errors, 0u);
}

}  // namespace
}  // namespace sluice
