#include "node/daemon/prefetcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "p2p/registry/platform_match.h"
#include "tests/unit/api/temp_dir.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using api::HintState;
using api::SubmitOutcome;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kChunk = kChunkSizeDefault;

Digest NameOf(uint8_t first) {
  std::array<uint8_t, Digest::kBytes> bytes{};
  bytes[0] = first;
  return Digest(bytes);
}

BlobSpec SpecOf(uint8_t name, uint64_t size) {
  return {.digest = NameOf(name), .size = size, .root = {}, .origins = {}};
}

// Images by reference, prepared at once in a store in memory.
class FakePreparer final : public ImagePreparer {
 public:
  explicit FakePreparer(fakes::MemoryStore& store) : store_(store) {}

  absl::StatusOr<std::string> Check(const std::string& reference) const override {
    if (reference == "malformed") return absl::InvalidArgumentError("reference \"malformed\" is none");
    if (reference == "forbidden") return absl::PermissionDeniedError("forbidden is not on the allow-list");
    return reference.find('/') == 1 ? reference : "r/" + reference;
  }
  absl::StatusOr<ResolvedImage> Resolve(const std::string& reference,
                                        const p2p::Platform& platform) override {
    resolved.push_back(reference + " " + platform.ToString());
    if (!resolve_error.ok()) return resolve_error;
    ResolvedImage image;
    image.manifest = NameOf(200);
    image.image.blobs = images[reference];
    return image;
  }
  absl::StatusOr<PreparedImage> Prepare(const ResolvedImage& image, const PrepareBounds& bounds) override {
    ++prepared;
    if (meanwhile) meanwhile();
    if (bounds.cancelled) return absl::CancelledError("cancelled");
    PreparedImage out{Blob::Lease(*store_.Open(SpecOf(100, 4096))), {}};
    for (const BlobSpec& spec : image.image.blobs) out.blobs.emplace_back(*store_.Open(spec));
    return out;
  }

  absl::StatusOr<BlobSpec> FindBlob(const std::string& reference, uint64_t size) override {
    resolved.push_back(reference);
    if (!resolve_error.ok()) return resolve_error;
    BlobSpec blob = SpecOf(1, 80 * kChunk);
    if (size != 0 && size != blob.size) return absl::InvalidArgumentError("it has another size");
    return blob;
  }
  absl::StatusOr<Blob::Lease> PrepareBlob(const BlobSpec& blob, const PrepareBounds&) override {
    ++prepared;
    return Blob::Lease(*store_.Open(blob));
  }

  std::map<std::string, std::vector<BlobSpec>> images;
  absl::Status resolve_error;
  std::function<void()> meanwhile;
  std::vector<std::string> resolved;
  int prepared = 0;

 private:
  fakes::MemoryStore& store_;
};

// Members "m1" to "m9", and this node, "self".
class FakeCarrier final : public HintCarrier {
 public:
  bool KeepsSecrets() const override { return keeps_secrets; }
  Who WhoIs(const std::string& name) const override {
    if (name == "self") return Who::kSelf;
    return name.size() == 2 && name[0] == 'm' ? Who::kMember : Who::kStranger;
  }
  void Carry(const api::HintSpec& spec, std::vector<std::string> members, OnTold on_told) override {
    carried.push_back(spec.id);
    credentials.push_back(spec.credentials ? spec.credentials->password.text() : "");
    for (std::string& member : members) told_.emplace_back(std::move(member), on_told);
  }
  void Recall(const std::string& id, std::vector<std::string> members, OnTold on_told) override {
    for (std::string& member : members) {
      recalled.push_back(absl::StrCat(id, " at ", member));
      told_.emplace_back(std::move(member), on_told);
    }
  }
  // The first that waits answers.
  void Answer(const absl::Status& status) {
    auto [member, on_told] = std::move(told_.front());
    told_.erase(told_.begin());
    on_told(member, status);
  }
  size_t waiting() const { return told_.size(); }

  std::vector<std::string> carried, recalled;
  std::vector<std::string> credentials;  // passwords, of what was carried
  bool keeps_secrets = true;

 private:
  std::vector<std::pair<std::string, OnTold>> told_;
};

class PrefetcherTest : public ::testing::Test {
 protected:
  PrefetcherTest() {
    preparer_.images["r/app"] = {SpecOf(1, 80 * kChunk), SpecOf(2, 2 * kChunk)};
    preparer_.images["r/other"] = {SpecOf(1, 80 * kChunk)};
  }
  ~PrefetcherTest() override {
    prefetcher_.reset();
    fills_.reset();
    Settle();
  }

  void Settle() {
    while (loop_.Run() + io_.Run() + blocking_.Run() + disk_.Run() > 0) {
    }
  }
  void Pass(Duration time) {
    clock_.now += time;
    Settle();
  }
  void AnswerAll(const absl::Status& status) {
    while (!source_.calls.empty()) {
      fakes::FakeSource::Call call = source_.Take();
      asked_.insert(call.request.fetch_class);
      if (status.ok()) {
        call.SendAll();
      } else {
        call.Fail(status);
      }
      Settle();
    }
  }

  api::SubmitResult SubmitOnly(api::HintSpec spec) {
    const auto results = prefetcher_->SubmitHints({std::move(spec)});
    EXPECT_TRUE(results.ok()) << results.status();
    return results.ok() ? results->front() : api::SubmitResult{};
  }
  api::SubmitResult Submit(const std::string& id, const std::string& reference,
                           std::vector<api::HintRange> ranges = {}) {
    api::SubmitResult result = SubmitOnly({.id = id, .reference = reference, .ranges = std::move(ranges)});
    Settle();
    return result;
  }
  api::HintStatus Of(const std::string& id) {
    const auto hints = prefetcher_->GetHints({id});
    EXPECT_TRUE(hints.ok()) << hints.status();
    return hints.ok() ? hints->front() : api::HintStatus{};
  }
  HintState StateOf(const std::string& id) { return Of(id).state; }
  void Cancel(const std::string& id) {
    EXPECT_TRUE(prefetcher_->CancelHints({id}).ok());
    Settle();
  }
  uint32_t Leases(uint8_t name) {
    const auto blob = store_.Find(NameOf(name));
    return blob ? blob->lease_count() : 0;
  }
  uint64_t Ended(HintResult result) const {
    return telemetry_.prefetch_hints[static_cast<size_t>(result)].value();
  }
  Prefetcher::Parts PartsOf() {
    return {clock_,
            loop_,
            blocking_,
            cache_,
            *fills_,
            preparer_,
            telemetry_,
            [this](const BlobKey& key) {
              pinned_.push_back(key);
              return pin_error_;
            },
            [this](const Digest& manifest) {
              profiles_asked_.push_back(manifest);
              return profile_;
            },
            &journal_,
            &disk_,
            &carrier_,
            [this](const std::string& reference, const api::HintCredentials& given) {
              logged_in_.push_back(absl::StrCat(reference, " ", given.username, " ", given.password.text()));
              auto preparer = std::make_unique<FakePreparer>(store_);
              preparer->images = preparer_.images;
              preparer->resolve_error = login_error_;
              login_preparer_ = preparer.get();
              const auto grant = std::make_shared<AskerGrant>();
              grant_ = grant;
              return std::make_shared<const HintLogin>(HintLogin{grant, std::move(preparer)});
            },
            &precision_,
            &arrivals_};
  }
  static api::HintSpec WithCredentials(const std::string& id) {
    return {.id = id, .reference = "app", .credentials = api::HintCredentials{"ann", Secret("s3cret")}};
  }
  void Remake(Prefetcher::Limits limits) { prefetcher_ = std::make_unique<Prefetcher>(PartsOf(), limits); }
  // As the node does when it has stopped, or was killed, and starts again.
  void StartAgain() {
    prefetcher_.reset();
    fills_.reset();
    Settle();
    fills_ = std::make_unique<BackgroundFill>(clock_, loop_, cache_, BackgroundFill::Limits{});
    Remake({});
    const absl::StatusOr<std::vector<JournalledHint>> before = journal_.Load();
    ASSERT_TRUE(before.ok()) << before.status();
    prefetcher_->Restore(*before);
    Settle();
  }
  std::vector<std::string> Journalled() const {
    std::vector<std::string> ids;
    const absl::StatusOr<std::vector<JournalledHint>> hints = journal_.Load();
    EXPECT_TRUE(hints.ok()) << hints.status();
    if (!hints.ok()) return {};
    for (const JournalledHint& hint : *hints) ids.push_back(hint.spec.id);
    return ids;
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor loop_{clock_}, io_{clock_}, blocking_{clock_}, disk_{clock_};
  api::TempDir dir_;
  HintJournal journal_{dir_.File("hints.json")};
  std::vector<BlobKey> pinned_;
  absl::Status pin_error_;
  std::optional<ImageProfile> profile_;
  FakeCarrier carrier_;
  std::vector<std::string> logged_in_;
  absl::Status login_error_;                // of looking images up
  FakePreparer* login_preparer_ = nullptr;  // the last; its hint owns it
  ImageCounters counters_;
  HintPrecision precision_{counters_};
  HintArrivals arrivals_;
  std::weak_ptr<const AskerGrant> grant_;  // the last
  std::vector<Digest> profiles_asked_;
  fakes::MemoryStore store_;
  fakes::FakeVerifier verifier_;
  fakes::FakeSource source_;
  Telemetry telemetry_;
  FixedSources sources_{{{SourceRank::kOrigin, &source_}}};
  BlobCache cache_{{clock_, loop_, io_, store_, verifier_, sources_, telemetry_, nullptr, {&arrivals_}}, {}};
  std::unique_ptr<BackgroundFill> fills_ =
      std::make_unique<BackgroundFill>(clock_, loop_, cache_, BackgroundFill::Limits{});
  FakePreparer preparer_{store_};
  std::set<FetchClass> asked_;
  std::unique_ptr<Prefetcher> prefetcher_ = std::make_unique<Prefetcher>(PartsOf(), Prefetcher::Limits{});
};

TEST_F(PrefetcherTest, AHintBringsAllOfAnImageInAndThenHoldsNothing) {
  EXPECT_EQ(SubmitOnly({.id = "h", .reference = "app"}).outcome, SubmitOutcome::kAccepted);
  EXPECT_EQ(StateOf("h"), HintState::kResolving);
  EXPECT_EQ(Of("h").total_bytes, 0u);
  Settle();
  EXPECT_EQ(StateOf("h"), HintState::kFetching);
  EXPECT_EQ(Of("h").reference, "r/app");
  EXPECT_EQ(Of("h").manifest, NameOf(200));
  EXPECT_EQ(Of("h").total_bytes, 82 * kChunk);
  EXPECT_GT(Leases(1), 0u);
  EXPECT_GT(Leases(2), 0u);
  EXPECT_GT(Leases(100), 0u);
  source_.Take().SendAll();
  Settle();
  EXPECT_GT(Of("h").present_bytes, 0u);
  EXPECT_LT(Of("h").present_bytes, 82 * kChunk);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_EQ(Of("h").present_bytes, 82 * kChunk);
  EXPECT_TRUE(store_.Find(NameOf(1))->presence().complete());
  for (const uint8_t blob : {1, 2, 100}) EXPECT_EQ(Leases(blob), 0u);
  EXPECT_THAT(asked_, ElementsAre(FetchClass::kHint));
  EXPECT_EQ(Ended(HintResult::kCompleted), 1u);
  EXPECT_EQ(fills_->Of(NameOf(1)).state, api::FillState::kIdle);
}

TEST_F(PrefetcherTest, HowFastAHintGoesTellsWhetherItWillBeInTime) {
  const auto wall = std::chrono::system_clock::now();
  SubmitOnly({.id = "h", .reference = "other", .needed_by = wall + minutes(1)});
  SubmitOnly({.id = "whenever", .reference = "other"});
  preparer_.images["r/stuck"] = {SpecOf(3, 2 * kChunk)};
  SubmitOnly({.id = "stuck", .reference = "stuck", .needed_by = wall + minutes(1)});
  Settle();
  Pass(seconds(1));
  EXPECT_EQ(Of("h").bytes_per_second, 0u);
  EXPECT_FALSE(Of("h").expected_late) << "nobody knows";
  source_.Take().SendAll();
  Settle();
  Pass(seconds(1));
  const api::HintStatus going = Of("h");
  EXPECT_GT(going.fetched_bytes, 2 * kChunk);
  EXPECT_EQ(going.fetched_bytes, going.present_bytes);
  EXPECT_EQ(going.bytes_per_second, going.fetched_bytes) << "in a second";
  EXPECT_FALSE(going.expected_late);
  // It stalls. A moment's pause says little.
  Pass(seconds(1));
  EXPECT_FALSE(Of("h").expected_late);
  EXPECT_FALSE(Of("stuck").expected_late) << "it may only have begun";
  Pass(seconds(1));
  EXPECT_TRUE(Of("stuck").expected_late);
  for (int second = 0; second < 20; ++second) Pass(seconds(1));
  const api::HintStatus stalled = Of("h");
  EXPECT_LT(stalled.bytes_per_second, going.bytes_per_second / 100);
  EXPECT_TRUE(stalled.expected_late);
  EXPECT_FALSE(stalled.late);
  EXPECT_GT(stalled.revision, going.revision);
  EXPECT_FALSE(Of("whenever").expected_late) << "nobody said when";
  // Of what was there before only the rest comes.
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_EQ(Of("h").fetched_bytes, 80 * kChunk);
  EXPECT_EQ(Of("h").bytes_per_second, 0u);
  EXPECT_FALSE(Of("h").expected_late);
  Submit("rest", "app");
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(Of("rest").present_bytes, 82 * kChunk);
  EXPECT_EQ(Of("rest").fetched_bytes, 2 * kChunk);
}

TEST_F(PrefetcherTest, AHintForMoreThanTheStoreHoldsBringsNothingIn) {
  telemetry_.cache_capacity_bytes.Set(82 * kChunk - 1);
  SubmitOnly({.id = "h", .reference = "app"});
  Settle();
  EXPECT_EQ(StateOf("h"), HintState::kFailed);
  EXPECT_TRUE(absl::IsFailedPrecondition(Of("h").error));
  EXPECT_THAT(std::string(Of("h").error.message()), HasSubstr("raise store.capacity"));
  EXPECT_TRUE(source_.calls.empty());
  for (const uint8_t blob : {1, 2, 100}) EXPECT_EQ(Leases(blob), 0u);
  telemetry_.cache_capacity_bytes.Set(82 * kChunk);
  SubmitOnly({.id = "fits", .reference = "app"});
  Settle();
  EXPECT_EQ(StateOf("fits"), HintState::kFetching);
}

TEST_F(PrefetcherTest, AnImageWithoutBlobsIsThereAtOnce) {
  preparer_.images["r/empty"] = {};
  Submit("h", "empty");
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
}

TEST_F(PrefetcherTest, TheSameHintAgainChangesNothing) {
  Submit("h", "app");
  EXPECT_EQ(Submit("h", "r/app").outcome, SubmitOutcome::kKnown);
  EXPECT_THAT(preparer_.resolved, SizeIs(1));
  AnswerAll(absl::OkStatus());
  const api::SubmitResult known = Submit("h", "app");
  EXPECT_EQ(known.outcome, SubmitOutcome::kKnown);
  EXPECT_EQ(known.status.state, HintState::kCompleted);
  EXPECT_THAT(preparer_.resolved, SizeIs(1));
}

TEST_F(PrefetcherTest, AnIdHasOneContent) {
  const std::vector<api::HintRange> ranges = {{NameOf(1), {0, 10}}, {NameOf(2), {0, 10}}};
  Submit("h", "app", ranges);
  const auto refusal = [this](const api::SubmitResult& result) {
    EXPECT_EQ(result.outcome, SubmitOutcome::kRefused);
    EXPECT_EQ(result.error.code(), absl::StatusCode::kAlreadyExists);
    EXPECT_THAT(preparer_.resolved, SizeIs(1));
    return std::string(result.error.message());
  };
  EXPECT_THAT(refusal(Submit("h", "other", ranges)), HasSubstr("another image (r/app, not r/other)"));
  EXPECT_THAT(refusal(SubmitOnly({"h", "app", api::HintPlatform{"linux", "riscv64", ""}, ranges})),
              HasSubstr("another platform"));
  EXPECT_THAT(refusal(Submit("h", "app")), HasSubstr("another scope"));
  EXPECT_THAT(refusal(Submit("h", "app", {{NameOf(1), {0, 11}}})), HasSubstr("other ranges"));
  EXPECT_EQ(Submit("h", "app", {ranges[1], ranges[0]}).outcome, SubmitOutcome::kKnown) << "order is nothing";
}

TEST_F(PrefetcherTest, WhenAndInWhoseNameIsPartOfTheContent) {
  const auto wall = std::chrono::system_clock::now();
  const api::HintSpec known{
      .id = "h", .reference = "app", .priority = 1, .needed_by = wall, .ttl = minutes(1), .scheduler = "s"};
  SubmitOnly(known);
  EXPECT_EQ(SubmitOnly(known).outcome, SubmitOutcome::kKnown);
  const auto difference = [&](const std::function<void(api::HintSpec&)>& change) {
    api::HintSpec other = known;
    change(other);
    const api::SubmitResult result = SubmitOnly(other);
    EXPECT_TRUE(absl::IsAlreadyExists(result.error)) << result.error;
    return std::string(result.error.message());
  };
  EXPECT_THAT(difference([](api::HintSpec& h) { h.priority = 2; }), HasSubstr("priority"));
  EXPECT_THAT(difference([&](api::HintSpec& h) { h.needed_by = wall + seconds(1); }), HasSubstr("needed_by"));
  EXPECT_THAT(difference([](api::HintSpec& h) { h.ttl = {}; }), HasSubstr("ttl"));
  EXPECT_THAT(difference([](api::HintSpec& h) { h.scheduler = "t"; }), HasSubstr("scheduler"));
}

TEST_F(PrefetcherTest, APlatformIsTheNodesOwnOrTheOneThatIsNamed) {
  Submit("a", "app");
  SubmitOnly({"b", "app", api::HintPlatform{"linux", "riscv64", "v1"}, {}});
  Settle();
  EXPECT_THAT(preparer_.resolved,
              ElementsAre("r/app " + p2p::ThisCpu().ToString(), "r/app linux/riscv64/v1"));
}

TEST_F(PrefetcherTest, AMalformedReferenceTakesTheWholeRequestWithIt) {
  const auto results =
      prefetcher_->SubmitHints({{.id = "good", .reference = "app"}, {.id = "bad", .reference = "malformed"}});
  EXPECT_EQ(results.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(results.status().message()), HasSubstr("\"bad\""));
  EXPECT_TRUE(absl::IsNotFound(prefetcher_->GetHints({"good"}).status()));
}

TEST_F(PrefetcherTest, AForbiddenImageIsRefusedAtOnceAndTheOthersAreTaken) {
  const auto results =
      prefetcher_->SubmitHints({{.id = "no", .reference = "forbidden"}, {.id = "yes", .reference = "app"}});
  ASSERT_TRUE(results.ok());
  EXPECT_EQ(results->at(0).outcome, SubmitOutcome::kRefused);
  EXPECT_EQ(results->at(0).error.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(results->at(1).outcome, SubmitOutcome::kAccepted);
  EXPECT_TRUE(absl::IsNotFound(prefetcher_->GetHints({"no"}).status()));
}

TEST_F(PrefetcherTest, WhatTheRegistryDoesNotHaveOrGiveFailsForGood) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kNotFound, absl::StatusCode::kPermissionDenied, absl::StatusCode::kUnauthenticated,
        absl::StatusCode::kDataLoss, absl::StatusCode::kFailedPrecondition}) {
    preparer_.resolve_error = absl::Status(code, "the registry says no");
    const std::string id = absl::StatusCodeToString(code);
    Submit(id, "app");
    EXPECT_EQ(StateOf(id), HintState::kFailed);
    EXPECT_EQ(Of(id).error, preparer_.resolve_error);
  }
  EXPECT_EQ(Ended(HintResult::kFailed), 5u);
}

TEST_F(PrefetcherTest, ARegistryThatIsAwayIsAskedAgainEverMoreSlowlyAndNotForEver) {
  preparer_.resolve_error = absl::UnavailableError("the registry is away");
  Submit("h", "app");
  EXPECT_EQ(StateOf("h"), HintState::kResolving);
  EXPECT_EQ(Of("h").error.message(), "the registry is away");
  Pass(seconds(1));
  EXPECT_THAT(preparer_.resolved, SizeIs(2));
  Pass(seconds(1));
  EXPECT_THAT(preparer_.resolved, SizeIs(2));
  Pass(seconds(1));
  EXPECT_THAT(preparer_.resolved, SizeIs(3));
  preparer_.resolve_error = absl::OkStatus();
  Pass(seconds(4));
  EXPECT_EQ(StateOf("h"), HintState::kFetching);
  EXPECT_TRUE(Of("h").error.ok());

  preparer_.resolve_error = absl::UnavailableError("the registry is away");
  Submit("late", "app");
  for (int i = 0; i < 30; ++i) Pass(minutes(1));
  EXPECT_EQ(StateOf("late"), HintState::kFailed);
  EXPECT_TRUE(absl::IsUnavailable(Of("late").error));
}

TEST_F(PrefetcherTest, AFillThatFailsIsTriedAgainForAsLongAsTheHintStands) {
  Submit("h", "other");
  for (const absl::Status& passes : {absl::UnavailableError("away"), absl::ResourceExhaustedError("full")}) {
    AnswerAll(passes);
    EXPECT_EQ(StateOf("h"), HintState::kFetching);
    EXPECT_EQ(Of("h").error, passes);
    Pass(minutes(1));
  }
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_TRUE(Of("h").error.ok());
}

TEST_F(PrefetcherTest, ABlobThatCannotBeHadFailsTheHintAndStopsItsOtherFills) {
  Submit("h", "app");
  AnswerAll(absl::NotFoundError("no such blob"));
  EXPECT_EQ(StateOf("h"), HintState::kFailed);
  EXPECT_TRUE(absl::IsNotFound(Of("h").error));
  Pass(minutes(5));
  EXPECT_TRUE(source_.calls.empty());
  for (const uint8_t blob : {1, 2, 100}) EXPECT_EQ(Leases(blob), 0u);
}

TEST_F(PrefetcherTest, CancelInMidFillLetsGoAndKeepsWhatHasArrived) {
  Submit("h", "other");
  source_.Take().SendAll();
  Settle();
  const uint64_t present = Of("h").present_bytes;
  EXPECT_GT(present, 0u);
  Cancel("h");
  EXPECT_EQ(StateOf("h"), HintState::kCancelled);
  EXPECT_EQ(Of("h").present_bytes, present);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(Leases(1), 0u);
  EXPECT_GE(store_.Find(NameOf(1))->present_bytes(), present);
  EXPECT_FALSE(store_.Find(NameOf(1))->presence().complete());
  Cancel("h");
  EXPECT_EQ(Ended(HintResult::kCancelled), 1u);
}

TEST_F(PrefetcherTest, WhatAnotherHintOrAMountWantsGoesOn) {
  Submit("a", "other");
  Submit("b", "other");
  Cancel("a");
  EXPECT_EQ(StateOf("b"), HintState::kFetching);
  fills_->Start(NameOf(1), FetchClass::kBackfill, FillOwner::kMounts);
  Cancel("b");
  AnswerAll(absl::OkStatus());
  EXPECT_TRUE(store_.Find(NameOf(1))->presence().complete());
  EXPECT_EQ(Leases(1), 0u);
}

TEST_F(PrefetcherTest, CancelBeforeItsTurnAndWhileItIsResolved) {
  SubmitOnly({.id = "first", .reference = "app"});
  SubmitOnly({.id = "second", .reference = "app"});
  SubmitOnly({.id = "third", .reference = "app"});
  EXPECT_EQ(StateOf("third"), HintState::kQueued);
  EXPECT_TRUE(prefetcher_->CancelHints({"third", "second"}).ok());
  preparer_.meanwhile = [this] { EXPECT_TRUE(prefetcher_->CancelHints({"first"}).ok()); };
  Settle();
  EXPECT_THAT(preparer_.resolved, SizeIs(1)) << "nobody asks for a hint that was cancelled before its turn";
  EXPECT_EQ(preparer_.prepared, 1);
  for (const char* id : {"first", "second", "third"}) EXPECT_EQ(StateOf(id), HintState::kCancelled) << id;
  EXPECT_TRUE(source_.calls.empty());
  EXPECT_EQ(Leases(100), 0u);
}

TEST_F(PrefetcherTest, CancelWhileItWaitsForTheNextTryEndsIt) {
  preparer_.resolve_error = absl::UnavailableError("the registry is away");
  Submit("h", "app");
  Cancel("h");
  Pass(minutes(5));
  EXPECT_THAT(preparer_.resolved, SizeIs(1));
  EXPECT_EQ(StateOf("h"), HintState::kCancelled);
}

TEST_F(PrefetcherTest, CancelOfAnUnknownHintCancelsNone) {
  Submit("h", "app");
  EXPECT_TRUE(absl::IsNotFound(prefetcher_->CancelHints({"h", "x"}).status()));
  EXPECT_EQ(StateOf("h"), HintState::kFetching);
}

TEST_F(PrefetcherTest, RangesBringInTheirChunksAndNoMore) {
  Submit("h", "app",
         {{NameOf(1), {5 * kChunk + 1, 10}}, {NameOf(1), {6 * kChunk - 1, 2}}, {NameOf(2), {0, 1}}});
  EXPECT_EQ(Of("h").total_bytes, 3 * kChunk);
  EXPECT_GT(Leases(1), 0u);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_EQ(Of("h").present_bytes, 3 * kChunk);
  const PresenceMap& presence = store_.Find(NameOf(1))->presence();
  EXPECT_EQ(presence.present_count(), 2u);
  EXPECT_TRUE(presence.IsPresent(ChunkIndex(5)));
  EXPECT_TRUE(presence.IsPresent(ChunkIndex(6)));
  EXPECT_EQ(store_.Find(NameOf(2))->presence().present_count(), 1u);
  EXPECT_EQ(Leases(1), 0u);
  EXPECT_THAT(asked_, ElementsAre(FetchClass::kHint));
}

TEST_F(PrefetcherTest, RangesThatAreNotInTheImageFailBeforeAnythingIsChanged) {
  Submit("beyond", "app", {{NameOf(2), {2 * kChunk - 1, 2}}});
  Submit("stranger", "app", {{NameOf(9), {0, 1}}});
  for (const char* id : {"beyond", "stranger"}) {
    EXPECT_EQ(StateOf(id), HintState::kFailed);
    EXPECT_TRUE(absl::IsInvalidArgument(Of(id).error)) << Of(id).error;
  }
  EXPECT_EQ(preparer_.prepared, 0);
  EXPECT_TRUE(store_.blobs.empty());
}

TEST_F(PrefetcherTest, ABlobAloneIsBroughtInWithoutAnImage) {
  const api::HintSpec whole{.id = "h", .reference = "blob", .blob = api::HintBlob{NameOf(1), 0}};
  EXPECT_EQ(SubmitOnly(whole).outcome, SubmitOutcome::kAccepted);
  Settle();
  EXPECT_EQ(Of("h").reference, "r/blob");
  EXPECT_FALSE(Of("h").manifest);
  EXPECT_EQ(Of("h").total_bytes, 80 * kChunk);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_TRUE(store_.Find(NameOf(1))->presence().complete());
  EXPECT_EQ(store_.blobs.size(), 1u) << "nothing else is registered";
  EXPECT_EQ(Leases(1), 0u);
  EXPECT_EQ(SubmitOnly(whole).outcome, SubmitOutcome::kKnown);
  EXPECT_THAT(std::string(Submit("h", "blob").error.message()), HasSubstr("another subject"));
  api::HintSpec sized = whole;
  sized.blob->size = 80 * kChunk;
  EXPECT_THAT(std::string(SubmitOnly(sized).error.message()), HasSubstr("size"));
}

TEST_F(PrefetcherTest, PartsOfABlobAloneAreHeldAgainstWhatItIs) {
  const auto submit = [this](const std::string& id, std::vector<api::HintRange> ranges, uint64_t size = 0) {
    SubmitOnly({.id = id, .reference = "blob", .ranges = ranges, .blob = api::HintBlob{NameOf(1), size}});
    Settle();
  };
  submit("beyond", {{NameOf(1), {0, 10}}, {NameOf(1), {80 * kChunk - 1, 2}}});
  submit("other size", {}, 79 * kChunk);
  for (const char* id : {"beyond", "other size"}) {
    EXPECT_EQ(StateOf(id), HintState::kFailed);
    EXPECT_TRUE(absl::IsInvalidArgument(Of(id).error)) << Of(id).error;
  }
  EXPECT_EQ(preparer_.prepared, 0);
  EXPECT_TRUE(store_.blobs.empty());
  submit("overlap", {{NameOf(1), {0, 3 * kChunk}}, {NameOf(1), {kChunk, kChunk + 1}}, {NameOf(1), {0, 1}}});
  EXPECT_EQ(Of("overlap").total_bytes, 3 * kChunk) << "no byte counts twice";
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("overlap"), HintState::kCompleted);
  EXPECT_EQ(store_.Find(NameOf(1))->presence().present_count(), 3u);
}

TEST_F(PrefetcherTest, WhatStartsReadIsBroughtInAndNoMore) {
  profile_ = ImageProfile{.runs = 3,
                          .spans = {{.blob = 1, .chunks = {ChunkIndex(1), 1}},
                                    {.blob = 0, .chunks = {ChunkIndex(40), 2}},
                                    {.blob = 0, .chunks = {ChunkIndex(7), 1}}},
                          .blind = {}};
  const api::HintSpec spec{.id = "h", .reference = "app", .profile = true};
  EXPECT_EQ(SubmitOnly(spec).outcome, SubmitOutcome::kAccepted);
  EXPECT_FALSE(Of("h").profile_starts) << "not known yet";
  Settle();
  EXPECT_THAT(profiles_asked_, ElementsAre(NameOf(200)));
  EXPECT_EQ(Of("h").profile_starts, 3u);
  EXPECT_EQ(Of("h").total_bytes, 4 * kChunk);
  EXPECT_GT(Leases(100), 0u);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  const PresenceMap& presence = store_.Find(NameOf(1))->presence();
  EXPECT_EQ(presence.present_count(), 3u);
  for (const uint32_t chunk : {7u, 40u, 41u}) EXPECT_TRUE(presence.IsPresent(ChunkIndex(chunk))) << chunk;
  EXPECT_TRUE(store_.Find(NameOf(2))->presence().IsPresent(ChunkIndex(1)));
  EXPECT_THAT(asked_, ElementsAre(FetchClass::kHint));
  EXPECT_EQ(Leases(1), 0u);
  EXPECT_EQ(SubmitOnly(spec).outcome, SubmitOutcome::kKnown);
  EXPECT_THAT(std::string(Submit("h", "app").error.message()), HasSubstr("another scope"));
}

TEST_F(PrefetcherTest, WithoutAProfileTheBootstrapAloneIsBroughtInAndSaidSo) {
  SubmitOnly({.id = "h", .reference = "app", .profile = true});
  Settle();
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_EQ(Of("h").profile_starts, 0u);
  EXPECT_EQ(Of("h").total_bytes, 0u);
  EXPECT_EQ(preparer_.prepared, 1) << "the bootstrap is there";
  EXPECT_TRUE(source_.calls.empty());
  EXPECT_FALSE(Submit("all", "app").status.profile_starts);
}

TEST_F(PrefetcherTest, AHostileProfileCostsBoundedBytes) {
  Remake({.profile_bytes_max = 10 * kChunk});
  profile_ = ImageProfile{.runs = 1,
                          .spans = {{.blob = 7, .chunks = {ChunkIndex(0), 1}},
                                    {.blob = 1, .chunks = {ChunkIndex(1), 2}},
                                    {.blob = 1, .chunks = {ChunkIndex(UINT32_MAX), 2}},
                                    {.blob = 0, .chunks = {ChunkIndex(0), 0}},
                                    {.blob = 0, .chunks = {ChunkIndex(5), 10}},
                                    {.blob = 0, .chunks = {ChunkIndex(30), 50}}},
                          .blind = {}};
  SubmitOnly({.id = "h", .reference = "app", .profile = true});
  Settle();
  EXPECT_EQ(Of("h").total_bytes, 10 * kChunk);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_EQ(store_.Find(NameOf(1))->presence().present_count(), 10u);
  EXPECT_EQ(store_.Find(NameOf(2))->presence().present_count(), 0u);
}

TEST_F(PrefetcherTest, RangesAreTriedAgainAndCanBeCancelled) {
  Submit("h", "other", {{NameOf(1), {0, 80 * kChunk}}});
  EXPECT_THAT(source_.calls, SizeIs(2)) << "steps under way at once";
  AnswerAll(absl::UnavailableError("away"));
  EXPECT_EQ(StateOf("h"), HintState::kFetching);
  EXPECT_EQ(Of("h").error.message(), "away");
  Pass(seconds(1));
  EXPECT_FALSE(source_.calls.empty());
  Cancel("h");
  AnswerAll(absl::OkStatus());
  Pass(minutes(5));
  EXPECT_TRUE(source_.calls.empty());
  EXPECT_FALSE(store_.Find(NameOf(1))->presence().complete());
  EXPECT_EQ(Leases(1), 0u);
}

TEST_F(PrefetcherTest, HintsUnderWayAndRememberedOnesAreBounded) {
  Remake({.live_max = 3, .ended_max = 2});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Submit(absl::StrCat(i), "app").outcome, SubmitOutcome::kAccepted);
  const api::SubmitResult refused = Submit("3", "app");
  EXPECT_EQ(refused.outcome, SubmitOutcome::kRefused);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.error));
  EXPECT_EQ(Submit("0", "app").outcome, SubmitOutcome::kKnown) << "a known one takes no room";
  for (const char* id : {"0", "1", "2"}) Cancel(id);
  EXPECT_TRUE(absl::IsNotFound(prefetcher_->GetHints({"0"}).status())) << "the oldest is forgotten";
  EXPECT_EQ(StateOf("1"), HintState::kCancelled);
  EXPECT_EQ(StateOf("2"), HintState::kCancelled);
  EXPECT_EQ(Submit("0", "other").outcome, SubmitOutcome::kAccepted) << "and its id is free";
}

TEST_F(PrefetcherTest, ASchedulerThatFillsItsShareLeavesTheOthersTheirs) {
  Remake({.live_of_scheduler_max = 2});
  const auto submit = [this](const std::string& id, const std::string& scheduler) {
    return SubmitOnly({.id = id, .reference = "app", .scheduler = scheduler});
  };
  EXPECT_EQ(submit("a", "one").outcome, SubmitOutcome::kAccepted);
  EXPECT_EQ(submit("b", "one").outcome, SubmitOutcome::kAccepted);
  const api::SubmitResult refused = submit("c", "one");
  EXPECT_EQ(refused.outcome, SubmitOutcome::kRefused);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.error)) << refused.error;
  EXPECT_THAT(refused.error.message(), HasSubstr("scheduler \"one\""));
  EXPECT_TRUE(refused.error.GetPayload("type.googleapis.com/google.rpc.RetryInfo")) << "when to come again";
  EXPECT_EQ(submit("c", "two").outcome, SubmitOutcome::kAccepted);
  EXPECT_EQ(submit("d", "").outcome, SubmitOutcome::kAccepted);
  EXPECT_EQ(Of("c").scheduler, "two");
  Cancel("a");
  EXPECT_EQ(submit("e", "one").outcome, SubmitOutcome::kAccepted) << "what is over makes room";
}

// Who gives 100,000 hints at once is told of all but a few to come again, and costs what those few do.
TEST_F(PrefetcherTest, AFloodOfHintsIsRefusedBeyondTheBound) {
  size_t accepted = 0, told_when = 0;
  for (int call = 0; call < 1000; ++call) {
    std::vector<api::HintSpec> hints;
    for (int i = 0; i < 100; ++i) {
      hints.push_back(
          {.id = absl::StrCat(call, ".", i), .reference = "app", .scheduler = absl::StrCat(call)});
    }
    const auto results = prefetcher_->SubmitHints(hints);
    ASSERT_TRUE(results.ok());
    for (const api::SubmitResult& result : *results) {
      if (result.outcome == SubmitOutcome::kAccepted) ++accepted;
      if (result.error.GetPayload("type.googleapis.com/google.rpc.RetryInfo")) ++told_when;
    }
  }
  EXPECT_EQ(accepted, Prefetcher::Limits{}.live_max);
  EXPECT_EQ(told_when, 100'000 - accepted);
  EXPECT_THAT(prefetcher_->ListHints("", 100'000), SizeIs(accepted));
}

// One that does not answer may hold each for minutes.
TEST_F(PrefetcherTest, OfOneRegistryFewAreLookedUpAtOnceAndOthersGoBefore) {
  Remake({.resolving_max = 4, .resolving_of_registry_max = 2});
  for (const char* id : {"a1", "a2", "a3", "a4"}) SubmitOnly({.id = id, .reference = absl::StrCat("a/", id)});
  for (const char* id : {"b1", "c1", "c2"})
    SubmitOnly({.id = id, .reference = absl::StrCat(std::string(1, id[0]), "/", id)});
  for (const char* id : {"a1", "a2", "b1", "c1"}) EXPECT_EQ(StateOf(id), HintState::kResolving) << id;
  for (const char* id : {"a3", "a4", "c2"}) EXPECT_EQ(StateOf(id), HintState::kQueued) << id;
  Settle();
  EXPECT_THAT(preparer_.resolved, SizeIs(7)) << "and each has its turn";
}

TEST_F(PrefetcherTest, HintsHaveTheirTurnsByPriorityAndDeadline) {
  Remake({.resolving_max = 1, .fetching_max = 1});
  const auto wall = std::chrono::system_clock::now();
  for (const char* image : {"later", "sooner", "urgent", "whenever"}) {
    preparer_.images[absl::StrCat("r/", image)] = {SpecOf(static_cast<uint8_t>(image[0]), 2 * kChunk)};
  }
  SubmitOnly({.id = "first", .reference = "app"});
  SubmitOnly({.id = "whenever", .reference = "whenever"});
  SubmitOnly({.id = "later", .reference = "later", .needed_by = wall + minutes(9)});
  SubmitOnly({.id = "sooner", .reference = "sooner", .needed_by = wall - minutes(1)});
  SubmitOnly({.id = "urgent", .reference = "urgent", .priority = 1});
  EXPECT_EQ(StateOf("first"), HintState::kResolving) << "nothing else was there when it came";
  Settle();
  std::vector<std::string> order;
  for (const std::string& resolved : preparer_.resolved) order.push_back(resolved.substr(2, 5));
  EXPECT_THAT(order, ElementsAre("app l", "urgen", "soone", "later", "whene"));
  EXPECT_EQ(StateOf("urgent"), HintState::kFetching) << "it took the place of who came before";
  for (const char* waits : {"first", "sooner", "later", "whenever"})
    EXPECT_EQ(StateOf(waits), HintState::kQueued);
  EXPECT_EQ(Of("sooner").total_bytes, 2 * kChunk) << "its size is known";

  std::vector<std::string> completed;
  while (!source_.calls.empty()) {
    source_.Take().SendAll();
    Settle();
    for (const char* id : {"first", "whenever", "later", "sooner", "urgent"}) {
      if (StateOf(id) == HintState::kCompleted &&
          std::find(completed.begin(), completed.end(), id) == completed.end())
        completed.emplace_back(id);
    }
  }
  EXPECT_THAT(completed, ElementsAre("urgent", "sooner", "later", "first", "whenever"));
  for (const uint8_t blob : {1, 2, 100}) EXPECT_EQ(Leases(blob), 0u);
}

TEST_F(PrefetcherTest, AHintThatCannotGoOnLeavesItsPlaceToTheNext) {
  Remake({.fetching_max = 1});
  Submit("stuck", "app", {{NameOf(1), {0, 1}}});
  Submit("next", "other", {{NameOf(1), {5 * kChunk, 1}}});
  EXPECT_EQ(StateOf("next"), HintState::kQueued);
  // The cache asks a few times by itself.
  while (StateOf("next") == HintState::kQueued && !source_.calls.empty()) {
    source_.Take().Fail(absl::UnavailableError("away"));
    Settle();
  }
  EXPECT_EQ(StateOf("stuck"), HintState::kFetching);
  EXPECT_TRUE(absl::IsUnavailable(Of("stuck").error));
  EXPECT_EQ(StateOf("next"), HintState::kFetching);
  source_.Take().SendAll();
  Settle();
  EXPECT_EQ(StateOf("next"), HintState::kCompleted);
  Pass(minutes(2));
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("stuck"), HintState::kCompleted) << "it went on trying";
}

TEST_F(PrefetcherTest, AHintEndsWithItsTtlWhereverItIs) {
  Remake({.resolving_max = 1, .fetching_max = 1});
  preparer_.meanwhile = [this] { SubmitOnly({.id = "queued", .reference = "other", .ttl = seconds(5)}); };
  SubmitOnly({.id = "fetching", .reference = "app", .ttl = seconds(10)});
  SubmitOnly({.id = "waiting", .reference = "other", .ttl = seconds(10)});
  SubmitOnly({.id = "stays", .reference = "other"});
  Settle();
  EXPECT_EQ(StateOf("fetching"), HintState::kFetching);
  EXPECT_EQ(StateOf("waiting"), HintState::kQueued);
  source_.Take().SendAll();
  Settle();
  Pass(seconds(9));
  EXPECT_EQ(StateOf("fetching"), HintState::kFetching);
  Pass(seconds(2));
  EXPECT_EQ(StateOf("fetching"), HintState::kExpired);
  EXPECT_GT(Of("fetching").present_bytes, 0u);
  EXPECT_EQ(StateOf("waiting"), HintState::kExpired);
  EXPECT_EQ(StateOf("queued"), HintState::kExpired);
  EXPECT_EQ(StateOf("stays"), HintState::kFetching) << "its turn has come";
  EXPECT_EQ(Ended(HintResult::kExpired), 3u);
  Pass(std::chrono::hours(25));
  EXPECT_EQ(StateOf("stays"), HintState::kExpired) << "none tries for ever";
  EXPECT_EQ(Leases(1), 0u);
  EXPECT_EQ(SubmitOnly({.id = "new", .reference = "app", .ttl = seconds(1)}).outcome,
            SubmitOutcome::kAccepted);
  Pass(seconds(3));
  EXPECT_EQ(StateOf("new"), HintState::kExpired) << "hints are tended again after there were none";
}

TEST_F(PrefetcherTest, AHintSaysThatItIsLate) {
  const auto wall = std::chrono::system_clock::now();
  SubmitOnly({.id = "past", .reference = "app", .needed_by = wall - minutes(1)});
  SubmitOnly({.id = "soon", .reference = "app", .needed_by = wall + minutes(10)});
  SubmitOnly({.id = "any", .reference = "app"});
  SubmitOnly({.id = "far", .reference = "app", .needed_by = std::chrono::system_clock::time_point::max()});
  SubmitOnly({.id = "old", .reference = "app", .needed_by = std::chrono::system_clock::time_point::min()});
  Settle();
  EXPECT_TRUE(Of("past").late);
  EXPECT_TRUE(Of("old").late);
  EXPECT_FALSE(Of("soon").late);
  Pass(minutes(11));
  EXPECT_TRUE(Of("soon").late);
  EXPECT_FALSE(Of("any").late);
  EXPECT_FALSE(Of("far").late);
  Pass(seconds(2));
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("soon"), HintState::kCompleted);
  EXPECT_TRUE(Of("soon").late) << "it stays so";
}

TEST_F(PrefetcherTest, ImagesAreLookedUpAFewAtATime) {
  Remake({.resolving_max = 1});
  SubmitOnly({.id = "a", .reference = "app"});
  SubmitOnly({.id = "b", .reference = "app"});
  EXPECT_EQ(StateOf("a"), HintState::kResolving);
  EXPECT_EQ(StateOf("b"), HintState::kQueued);
  Settle();
  EXPECT_EQ(StateOf("b"), HintState::kFetching);
}

TEST_F(PrefetcherTest, HintsAreListedInTheOrderOfTheirIds) {
  EXPECT_THAT(prefetcher_->ListHints("", 10), IsEmpty());
  for (const char* id : {"c", "a", "b"}) Submit(id, "app");
  Cancel("a");
  const auto page = prefetcher_->ListHints("", 2);
  ASSERT_THAT(page, SizeIs(2));
  EXPECT_EQ(page[0], Of("a"));
  EXPECT_EQ(page[0].state, HintState::kCancelled);
  EXPECT_EQ(page[1], Of("b"));
  EXPECT_EQ(prefetcher_->ListHints("b", 2), std::vector<api::HintStatus>{Of("c")});
  EXPECT_THAT(prefetcher_->ListHints("c", 2), IsEmpty());
}

TEST_F(PrefetcherTest, AChangeHasARevisionThatIsGreaterThanAllBefore) {
  const uint64_t begin = prefetcher_->Revision();
  EXPECT_GT(Submit("a", "app").status.revision, begin);
  const uint64_t first = Of("a").revision;
  EXPECT_EQ(Of("a").revision, first) << "nothing has changed";
  Submit("b", "other");
  EXPECT_GT(Of("b").revision, first);
  EXPECT_EQ(Of("a").revision, first) << "of another hint";
  source_.Take().SendAll();
  Settle();
  EXPECT_GT(Of("a").revision, Of("b").revision - 1) << "bytes have arrived";
  const uint64_t before_end = prefetcher_->Revision();
  Cancel("a");
  EXPECT_GT(Of("a").revision, before_end);
  EXPECT_EQ(prefetcher_->Revision(), std::max(Of("a").revision, Of("b").revision));
  const uint64_t last = prefetcher_->Revision();
  clock_.now += std::chrono::hours(1);
  Remake({});
  EXPECT_GT(Submit("a", "app").status.revision, last) << "another life begins after the one before";
}

TEST_F(PrefetcherTest, OnceStoppedItTakesNoneAndHoldsNothing) {
  Submit("h", "app");
  SubmitOnly({.id = "queued", .reference = "app"});
  prefetcher_->Stop();
  prefetcher_->Stop();
  Settle();
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(Leases(1), 0u);
  EXPECT_EQ(Leases(100), 0u);
  EXPECT_EQ(Submit("new", "app").outcome, SubmitOutcome::kRefused);
}

TEST_F(PrefetcherTest, ADrainedNodeEndsItsHintsAndTakesNone) {
  preparer_.meanwhile = [this] { SubmitOnly({.id = "queued", .reference = "app"}); };
  Submit("fetching", "app");
  preparer_.meanwhile = nullptr;
  source_.Take().SendAll();
  Settle();
  Submit("over", "app");
  Cancel("over");
  EXPECT_EQ(prefetcher_->SetDrain(api::DrainState::kDrained), 2u);
  EXPECT_EQ(prefetcher_->SetDrain(api::DrainState::kDrained), 0u);
  Settle();
  for (const char* id : {"fetching", "queued"}) {
    EXPECT_EQ(StateOf(id), HintState::kFailed) << id;
    EXPECT_TRUE(absl::IsUnavailable(Of(id).error)) << Of(id).error;
  }
  EXPECT_GT(Of("fetching").present_bytes, 0u) << "what has arrived stays";
  EXPECT_EQ(StateOf("over"), HintState::kCancelled);
  AnswerAll(absl::OkStatus());
  Pass(minutes(5));
  EXPECT_TRUE(source_.calls.empty());
  for (const uint8_t blob : {1, 2, 100}) EXPECT_EQ(Leases(blob), 0u);
  EXPECT_THAT(Journalled(), IsEmpty());
  const auto refused = prefetcher_->SubmitHints({{.id = "new", .reference = "app"}});
  EXPECT_TRUE(absl::IsUnavailable(refused.status())) << refused.status();

  EXPECT_EQ(prefetcher_->SetDrain(api::DrainState::kServing), 0u);
  EXPECT_EQ(Submit("new", "app").outcome, SubmitOutcome::kAccepted);
  EXPECT_EQ(StateOf("new"), HintState::kFetching);
}

std::string StatesOf(const api::HintStatus& status) {
  std::string text;
  for (const api::TargetStatus& target : status.targets) {
    constexpr const char* kStates[] = {"sending", "taken", "failed", "cancelling", "cancelled"};
    absl::StrAppend(&text, text.empty() ? "" : ", ", target.name, " ",
                    kStates[static_cast<size_t>(target.state)]);
  }
  return text;
}

TEST_F(PrefetcherTest, AHintForOthersIsPassedOnAndNotFetchedHere) {
  const api::HintSpec spec{.id = "h", .reference = "app", .targets = {"m1", "m2", "nobody"}};
  const api::SubmitResult taken = SubmitOnly(spec);
  EXPECT_EQ(taken.outcome, SubmitOutcome::kAccepted);
  EXPECT_EQ(taken.status.state, HintState::kPassingOn);
  EXPECT_EQ(StatesOf(taken.status), "m1 sending, m2 sending, nobody failed")
      << "nothing waits for the network";
  EXPECT_TRUE(absl::IsNotFound(taken.status.targets[2].error));
  EXPECT_THAT(taken.status.target_totals, ElementsAre(2u, 0u, 1u, 0u, 0u));
  const uint64_t revision = Of("h").revision;
  carrier_.Answer(absl::OkStatus());
  EXPECT_EQ(StatesOf(Of("h")), "m1 taken, m2 sending, nobody failed");
  EXPECT_GT(Of("h").revision, revision) << "watchers hear of it";
  carrier_.Answer(absl::UnavailableError("it is away"));
  EXPECT_EQ(StateOf("h"), HintState::kPassedOn);
  EXPECT_EQ(StatesOf(Of("h")), "m1 taken, m2 failed, nobody failed");
  EXPECT_EQ(Of("h").targets[1].error.message(), "it is away");
  Settle();
  EXPECT_THAT(preparer_.resolved, IsEmpty());
  EXPECT_EQ(SubmitOnly(spec).outcome, SubmitOutcome::kKnown);
  EXPECT_THAT(carrier_.carried, ElementsAre("h")) << "told once";
  EXPECT_THAT(std::string(Submit("h", "app").error.message()), HasSubstr("other targets"));
  EXPECT_THAT(prefetcher_->ListHints("", 1).front().targets, IsEmpty());
  EXPECT_THAT(prefetcher_->ListHints("", 1).front().target_totals, ElementsAre(0u, 1u, 2u, 0u, 0u));
}

TEST_F(PrefetcherTest, AHintForThisNodeAndOthersIsOverWhenBothAreDone) {
  SubmitOnly({.id = "told last", .reference = "other", .targets = {"m1", "self"}});
  Settle();
  EXPECT_EQ(StateOf("told last"), HintState::kFetching);
  EXPECT_EQ(StatesOf(Of("told last")), "m1 sending, self taken");
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("told last"), HintState::kFetching) << "m1 has not answered";
  carrier_.Answer(absl::OkStatus());
  EXPECT_EQ(StateOf("told last"), HintState::kCompleted);
  EXPECT_EQ(StatesOf(Of("told last")), "m1 taken, self taken");

  SubmitOnly({.id = "told first", .reference = "app", .targets = {"m1", "self"}});
  Settle();
  carrier_.Answer(absl::UnavailableError("it is away"));
  EXPECT_EQ(StateOf("told first"), HintState::kFetching);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("told first"), HintState::kCompleted);
  EXPECT_EQ(Leases(1), 0u);

  SubmitOnly({.id = "pinned", .reference = "other", .pin = true, .targets = {"m1", "self"}});
  Settle();
  EXPECT_THAT(pinned_, IsEmpty());
  carrier_.Answer(absl::OkStatus());
  Settle();
  EXPECT_EQ(StateOf("pinned"), HintState::kCompleted);
  EXPECT_THAT(pinned_, SizeIs(2));
}

TEST_F(PrefetcherTest, AHintThatNobodyTakesHasFailed) {
  SubmitOnly({.id = "strangers", .reference = "app", .targets = {"nobody", "noone"}});
  EXPECT_EQ(StateOf("strangers"), HintState::kFailed);
  EXPECT_TRUE(absl::IsNotFound(Of("strangers").error)) << Of("strangers").error;
  EXPECT_THAT(std::string(Of("strangers").error.message()), HasSubstr("nobody"));
  SubmitOnly({.id = "refused", .reference = "app", .targets = {"m1"}});
  carrier_.Answer(absl::PermissionDeniedError("not on the allow-list"));
  EXPECT_EQ(StateOf("refused"), HintState::kFailed);
  EXPECT_TRUE(absl::IsPermissionDenied(Of("refused").error));
  SubmitOnly({.id = "silent", .reference = "app", .ttl = seconds(5), .targets = {"m1"}});
  Pass(seconds(7));
  EXPECT_EQ(StateOf("silent"), HintState::kExpired);
  EXPECT_THAT(preparer_.resolved, IsEmpty());
}

TEST_F(PrefetcherTest, WhoHasTakenAHintIsToldThatItWasCancelled) {
  SubmitOnly({.id = "h", .reference = "app", .targets = {"m1", "m2", "m3", "nobody", "self"}});
  carrier_.Answer(absl::OkStatus());
  carrier_.Answer(absl::UnavailableError("it is away"));
  Cancel("h");
  EXPECT_EQ(StateOf("h"), HintState::kCancelled);
  EXPECT_EQ(StatesOf(Of("h")), "m1 cancelling, m2 failed, m3 sending, nobody failed, self taken");
  EXPECT_THAT(Of("h").target_totals, ElementsAre(1u, 1u, 2u, 1u, 0u));
  EXPECT_THAT(carrier_.recalled, ElementsAre("h at m1"));
  const uint64_t revision = Of("h").revision;
  carrier_.Answer(absl::OkStatus());  // m3 takes it, by a question that was under way
  EXPECT_THAT(carrier_.recalled, ElementsAre("h at m1", "h at m3"));
  carrier_.Answer(absl::OkStatus());
  EXPECT_EQ(StatesOf(Of("h")), "m1 cancelled, m2 failed, m3 cancelling, nobody failed, self taken");
  EXPECT_GT(Of("h").revision, revision);
  carrier_.Answer(absl::NotFoundError("it is not known"));
  EXPECT_EQ(StatesOf(Of("h")), "m1 cancelled, m2 failed, m3 cancelled, nobody failed, self taken");
  EXPECT_THAT(Of("h").target_totals, ElementsAre(0u, 1u, 2u, 0u, 2u));
  Cancel("h");
  EXPECT_THAT(carrier_.recalled, SizeIs(2)) << "each once";
}

TEST_F(PrefetcherTest, WhoIsNotReachedGoesOnAndIsToldOnceMore) {
  SubmitOnly({.id = "h", .reference = "app", .targets = {"m1"}});
  carrier_.Answer(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kPassedOn);
  Cancel("h");
  EXPECT_EQ(StateOf("h"), HintState::kPassedOn) << "it was over";
  EXPECT_EQ(StatesOf(Of("h")), "m1 cancelling");
  carrier_.Answer(absl::UnavailableError("it is away"));
  EXPECT_EQ(StatesOf(Of("h")), "m1 taken");
  EXPECT_EQ(Of("h").targets[0].error, absl::UnavailableError("it is away"));
  Cancel("h");
  EXPECT_EQ(Of("h").targets[0].error, absl::OkStatus());
  carrier_.Answer(absl::OkStatus());
  EXPECT_EQ(StatesOf(Of("h")), "m1 cancelled");
  EXPECT_THAT(carrier_.recalled, ElementsAre("h at m1", "h at m1"));
}

TEST_F(PrefetcherTest, CredentialsServeTheirHintAlone) {
  EXPECT_EQ(SubmitOnly(WithCredentials("h")).outcome, SubmitOutcome::kAccepted);
  EXPECT_THAT(logged_in_, ElementsAre("r/app ann s3cret"));
  EXPECT_EQ(SubmitOnly(WithCredentials("h")).outcome, SubmitOutcome::kKnown);
  EXPECT_THAT(logged_in_, SizeIs(1));
  EXPECT_THAT(std::string(SubmitOnly({.id = "h", .reference = "app"}).error.message()),
              HasSubstr("with credentials"));
  Settle();
  EXPECT_THAT(preparer_.resolved, IsEmpty()) << "this node's own right was used";
  EXPECT_THAT(login_preparer_->resolved, SizeIs(1));
  EXPECT_EQ(StateOf("h"), HintState::kFetching);
  ASSERT_FALSE(source_.calls.empty());
  EXPECT_EQ(source_.calls.front().request.grant, grant_.lock());
  EXPECT_EQ(source_.calls.front().request.fetch_class, FetchClass::kHint);
  // What readers want of the same is asked for by this node's own right.
  std::vector<absl::Status> read;
  cache_.Read({.blob = BlobKey(NameOf(2)), .range = {0, 1}, .deadline = clock_.now + minutes(1)},
              [&](const absl::StatusOr<ReadResult>& result) { read.push_back(result.status()); });
  Settle();
  AnswerAll(absl::OkStatus());
  EXPECT_THAT(read, ElementsAre(absl::OkStatus()));
  Pass(FillFlows::kReaderKept);  // the reader comes first
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_EQ(Of("h").present_bytes, 82 * kChunk);
  EXPECT_EQ(grant_.lock(), nullptr) << "who is over has credentials still";
  for (const uint8_t blob : {1, 2, 100}) EXPECT_EQ(Leases(blob), 0u);
}

TEST_F(PrefetcherTest, CredentialsThatAreRefusedEndTheirHintAtOnce) {
  login_error_ = absl::UnauthenticatedError("401");
  SubmitOnly(WithCredentials("looked up"));
  Settle();
  EXPECT_EQ(StateOf("looked up"), HintState::kFailed);
  EXPECT_TRUE(absl::IsUnauthenticated(Of("looked up").error));
  EXPECT_EQ(grant_.lock(), nullptr);

  login_error_ = absl::OkStatus();
  SubmitOnly(WithCredentials("fetched"));
  Settle();
  AnswerAll(absl::PermissionDeniedError("403"));
  EXPECT_EQ(StateOf("fetched"), HintState::kFailed);
  EXPECT_TRUE(absl::IsPermissionDenied(Of("fetched").error));
  EXPECT_EQ(grant_.lock(), nullptr) << "a try that is still to come has it";
  Pass(minutes(5));
  EXPECT_TRUE(source_.calls.empty()) << "it is tried again";
  EXPECT_EQ(grant_.lock(), nullptr);
}

TEST_F(PrefetcherTest, WhoIsCancelledHasNoCredentialsAnyMore) {
  SubmitOnly(WithCredentials("h"));
  login_preparer_->meanwhile = [this] { EXPECT_TRUE(prefetcher_->CancelHints({"h"}).ok()); };
  Settle();
  EXPECT_EQ(StateOf("h"), HintState::kCancelled);
  EXPECT_EQ(grant_.lock(), nullptr);
  SubmitOnly(WithCredentials("queued"));
  Cancel("queued");
  EXPECT_EQ(grant_.lock(), nullptr);
  EXPECT_THAT(preparer_.resolved, IsEmpty());
}

TEST_F(PrefetcherTest, AfterARestartCredentialsAreGoneAndTheClientLearnsIt) {
  api::HintSpec ranges = WithCredentials("ranges");
  ranges.ranges = {{NameOf(1), {0, 10}}};
  SubmitOnly(WithCredentials("h"));
  SubmitOnly(ranges);
  Settle();
  Pass(Prefetcher::Limits{}.save_delay);
  EXPECT_THAT(Journalled(), ElementsAre("h", "ranges"));
  const absl::StatusOr<std::vector<JournalledHint>> journalled = journal_.Load();
  ASSERT_TRUE(journalled.ok());
  for (const JournalledHint& hint : *journalled) {
    EXPECT_TRUE(hint.had_credentials);
    EXPECT_FALSE(hint.spec.credentials);
    EXPECT_THAT(hint.spec.ranges, IsEmpty());
  }

  StartAgain();
  Pass(Prefetcher::Limits{}.save_delay);
  EXPECT_THAT(Journalled(), IsEmpty());
  EXPECT_THAT(preparer_.resolved, IsEmpty()) << "it was run by this node's own right";
  for (const char* const id : {"h", "ranges"}) {
    EXPECT_EQ(StateOf(id), HintState::kFailed);
    EXPECT_TRUE(absl::IsUnauthenticated(Of(id).error)) << Of(id).error;
    EXPECT_THAT(std::string(Of(id).error.message()), HasSubstr("submit the hint again"));
  }
  const api::SubmitResult without = SubmitOnly({.id = "h", .reference = "app"});
  EXPECT_TRUE(absl::IsAlreadyExists(without.error)) << without.error;
  EXPECT_THAT(std::string(without.error.message()), HasSubstr("lost in a restart"));
  EXPECT_EQ(SubmitOnly(WithCredentials("h")).outcome, SubmitOutcome::kAccepted);
  EXPECT_EQ(SubmitOnly(ranges).outcome, SubmitOutcome::kAccepted);
  EXPECT_EQ(SubmitOnly(ranges).outcome, SubmitOutcome::kKnown);
  Settle();
  AnswerAll(absl::OkStatus());
  Pass(seconds(1));  // what the other one has brought is seen a moment later
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_EQ(Of("ranges").total_bytes, kChunk);
  EXPECT_EQ(StateOf("ranges"), HintState::kCompleted);
}

TEST_F(PrefetcherTest, CredentialsArePassedOnWhereNobodyListens) {
  api::HintSpec others = WithCredentials("others");
  others.targets = {"m1"};
  SubmitOnly(others);
  EXPECT_THAT(carrier_.credentials, ElementsAre("s3cret"));
  EXPECT_THAT(logged_in_, IsEmpty()) << "it is not for this node";
  api::HintSpec both = WithCredentials("both");
  both.targets = {"m1", "self"};
  SubmitOnly(both);
  EXPECT_THAT(carrier_.credentials, ElementsAre("s3cret", "s3cret"));
  EXPECT_THAT(logged_in_, SizeIs(1));

  carrier_.keeps_secrets = false;
  both.id = "plain";
  const auto refused = prefetcher_->SubmitHints({{.id = "good", .reference = "app"}, both});
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("hints[1].credentials"));
  EXPECT_THAT(std::string(refused.status().message()), Not(HasSubstr("s3cret")));
  EXPECT_TRUE(absl::IsNotFound(prefetcher_->GetHints({"good"}).status())) << "none is taken";
  api::HintSpec here = WithCredentials("here");
  here.targets = {"self"};
  EXPECT_EQ(SubmitOnly(here).outcome, SubmitOutcome::kAccepted);
  EXPECT_THAT(carrier_.credentials, SizeIs(2));
}

TEST_F(PrefetcherTest, WhatAHintHasBroughtIsToldOnceItIsOver) {
  const auto fetched = [this] {
    return counters_.hint_bytes[static_cast<size_t>(HintBytes::kFetched)].value();
  };
  Submit("part", "other", {{NameOf(1), {0, 10}}, {NameOf(1), {5 * kChunk, 10}}});
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(fetched(), 2 * kChunk);
  Submit("all", "app");
  source_.Take().SendAll();
  Settle();
  EXPECT_EQ(fetched(), 2 * kChunk) << "it goes on";
  const uint64_t present = Of("all").present_bytes;
  EXPECT_GT(present, 2 * kChunk);
  Cancel("all");
  EXPECT_EQ(fetched(), present) << "what was there before did not come by it";
}

TEST_F(PrefetcherTest, AHintTellsWhereItsBytesCameFromAndWhatWasRead) {
  const auto come = [this](SourceKind kind) { return Of("h").come_bytes[static_cast<size_t>(kind)]; };
  Submit("before", "other", {{NameOf(1), {0, 10}}});
  AnswerAll(absl::OkStatus());
  Submit("h", "other", {{NameOf(1), {0, 10 * kChunk}}});
  Settle();
  // The swarm brings two of them, and one that the hint does not ask for.
  const std::shared_ptr<Blob> blob = store_.Find(NameOf(1));
  for (const uint32_t chunk : {1, 2, 20}) {
    cache_.Offer(blob, ChunkIndex(chunk), Buffer(kChunk), Evidence::kUnverified, SourceKind::kPeer,
                 [](auto) {});
    Settle();
  }
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_EQ(Of("h").fetched_bytes, 9 * kChunk);
  EXPECT_EQ(come(SourceKind::kOrigin), 7 * kChunk) << "what was there before came by nobody";
  EXPECT_EQ(come(SourceKind::kPeer), 2 * kChunk);
  EXPECT_EQ(Of("h").used_bytes + Of("h").unread_bytes, 0u) << "no start was watched";

  // What comes when a hint is over is not its.
  Submit("ended", "other", {{NameOf(1), {30 * kChunk, 10}}});
  Settle();
  Cancel("ended");
  cache_.Offer(blob, ChunkIndex(30), Buffer(kChunk), Evidence::kUnverified, SourceKind::kPeer, [](auto) {});
  Settle();
  EXPECT_EQ(Of("ended").come_bytes[static_cast<size_t>(SourceKind::kPeer)], 0u);

  const uint64_t revision = Of("h").revision;
  ImageProfile read;
  ProfileSpan& span = read.spans.emplace_back();
  span.chunks = {ChunkIndex(0), 4};
  precision_.Started(std::vector{blob}, read);
  EXPECT_EQ(Of("h").used_bytes, 3 * kChunk) << "the first had another hint brought in";
  EXPECT_EQ(Of("h").unread_bytes, 6 * kChunk);
  EXPECT_GT(Of("h").revision, revision);
  EXPECT_EQ(Of("before").used_bytes, kChunk);
}

TEST_F(PrefetcherTest, TargetsNeedMembers) {
  Prefetcher::Parts parts = PartsOf();
  parts.carrier = nullptr;
  prefetcher_ = std::make_unique<Prefetcher>(std::move(parts), Prefetcher::Limits{});
  const api::SubmitResult refused = SubmitOnly({.id = "h", .reference = "app", .targets = {"m1"}});
  EXPECT_EQ(refused.outcome, SubmitOutcome::kRefused);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.error)) << refused.error;
  EXPECT_THAT(prefetcher_->ListHints("", 1), IsEmpty());
}

TEST_F(PrefetcherTest, AnAnswerTellsOfABoundedNumberOfTargets) {
  std::vector<std::string> strangers;
  for (size_t i = 0; i < api::kHintTargetsMax; ++i) strangers.push_back(absl::StrCat("stranger", 10000 + i));
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(absl::StrCat("h", i));
    SubmitOnly({.id = ids.back(), .reference = "app", .targets = strangers});
  }
  const auto told = prefetcher_->GetHints(ids);
  ASSERT_TRUE(told.ok());
  EXPECT_THAT(told->at(3).targets, SizeIs(api::kHintTargetsMax));
  EXPECT_THAT(told->at(4).targets, IsEmpty());
  EXPECT_EQ(told->at(4).target_totals[2], api::kHintTargetsMax);
  EXPECT_THAT(prefetcher_->GetHints({ids[4]})->front().targets, SizeIs(api::kHintTargetsMax));
}

TEST_F(PrefetcherTest, WhatWasToBeToldEndsWithTheDaemon) {
  const api::HintSpec both{.id = "both", .reference = "app", .targets = {"m1", "self"}};
  const api::HintSpec others{.id = "others", .reference = "app", .targets = {"m1"}};
  SubmitOnly(both);
  SubmitOnly(others);
  StartAgain();
  EXPECT_EQ(StateOf("both"), HintState::kFetching);
  EXPECT_EQ(StatesOf(Of("both")), "m1 failed, self taken");
  EXPECT_EQ(StateOf("others"), HintState::kFailed);
  EXPECT_TRUE(absl::IsUnavailable(Of("others").error));
  EXPECT_EQ(carrier_.carried.size(), 2u) << "nobody is told again";
  EXPECT_EQ(SubmitOnly(both).outcome, SubmitOutcome::kKnown);
}

TEST(ChunksTouchedTest, RangesBecomeRunsOfChunksWithGapsBetween) {
  const ChunkGeometry geometry(10 * kChunk + 5, kChunk);
  const auto touched = [&](std::vector<ByteRange> ranges) {
    return ChunksTouched(geometry, std::move(ranges));
  };
  EXPECT_THAT(touched({}), IsEmpty());
  EXPECT_THAT(touched({{0, 1}}), ElementsAre(ChunkSpan{ChunkIndex(0), 1}));
  EXPECT_THAT(touched({{3 * kChunk, kChunk}, {2 * kChunk, kChunk}}),
              ElementsAre(ChunkSpan{ChunkIndex(2), 2}));
  EXPECT_THAT(touched({{0, 5 * kChunk}, {kChunk, 1}}), ElementsAre(ChunkSpan{ChunkIndex(0), 5}));
  EXPECT_THAT(touched({{10 * kChunk, 5}, {0, 1}}),
              ElementsAre(ChunkSpan{ChunkIndex(0), 1}, ChunkSpan{ChunkIndex(10), 1}));
  EXPECT_EQ(BytesOf(geometry, touched({{10 * kChunk, 5}, {0, 1}})), kChunk + 5);
}

TEST_F(PrefetcherTest, HintsOutliveTheDaemonInTheirOrderAndTimes) {
  Submit("fetching", "app");
  SubmitOnly({.id = "queued", .reference = "other", .priority = 3, .ttl = minutes(10)});
  SubmitOnly({.id = "over", .reference = "other"});
  Cancel("over");
  Pass(Prefetcher::Limits{}.save_delay);
  EXPECT_THAT(Journalled(), ElementsAre("fetching", "queued"));
  const uint64_t before = Of("queued").revision;

  StartAgain();
  EXPECT_EQ(StateOf("fetching"), HintState::kFetching);
  EXPECT_EQ(StateOf("queued"), HintState::kFetching);
  EXPECT_GT(Of("queued").revision, before) << "it is news";
  EXPECT_TRUE(absl::IsNotFound(prefetcher_->GetHints({"over"}).status()));
  EXPECT_EQ(SubmitOnly({.id = "queued", .reference = "other", .priority = 3, .ttl = minutes(10)}).outcome,
            SubmitOutcome::kKnown);
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("fetching"), HintState::kCompleted);
  Pass(Prefetcher::Limits{}.save_delay);
  EXPECT_THAT(Journalled(), IsEmpty());
}

TEST_F(PrefetcherTest, WhatAClientWasToldOutlivesAKillThatComesAtOnce) {
  prefetcher_->Restore({});
  SubmitOnly({.id = "taken", .reference = "app"});
  EXPECT_THAT(Journalled(), ElementsAre("taken"));
  SubmitOnly({.id = "cancelled", .reference = "other"});
  Cancel("cancelled");
  EXPECT_THAT(Journalled(), ElementsAre("taken"));
  SubmitOnly({.id = "taken", .reference = "app"});
  EXPECT_THAT(Journalled(), ElementsAre("taken"));
  Pass(Prefetcher::Limits{}.save_delay);
  EXPECT_THAT(Journalled(), ElementsAre("taken"));
}

TEST_F(PrefetcherTest, AJournalOfTheDaemonBeforeThatCantBeUsedIsReplaced) {
  std::ofstream(dir_.File("hints.json")) << "what is no journal";
  prefetcher_->Restore({});
  SubmitOnly({.id = "a", .reference = "app"});
  EXPECT_THAT(Journalled(), ElementsAre("a"));
}

TEST_F(PrefetcherTest, ADaemonThatStopsHasJournalledAll) {
  SubmitOnly({.id = "a", .reference = "app"});
  prefetcher_->Stop();
  EXPECT_THAT(Journalled(), ElementsAre("a"));
  Settle();
  EXPECT_THAT(Journalled(), ElementsAre("a")) << "its end is not the hint's";
}

TEST_F(PrefetcherTest, AHintsTimeGoesOnWhileTheDaemonIsAway) {
  const auto wall_now = std::chrono::system_clock::now();
  prefetcher_->Restore(
      {{{.id = "old", .reference = "r/app", .ttl = minutes(10)}, wall_now - minutes(11)},
       {{.id = "young", .reference = "r/app", .ttl = minutes(10)}, wall_now - minutes(5)},
       {{.id = "future", .reference = "r/app", .ttl = minutes(10)}, wall_now + minutes(60)}});
  Pass(Prefetcher::Limits{}.tend_interval);
  EXPECT_EQ(StateOf("old"), HintState::kExpired);
  EXPECT_EQ(StateOf("young"), HintState::kFetching);
  Pass(minutes(6));
  EXPECT_EQ(StateOf("young"), HintState::kExpired);
  EXPECT_EQ(StateOf("future"), HintState::kFetching);
  Pass(minutes(5));
  EXPECT_EQ(StateOf("future"), HintState::kExpired) << "a clock that was set back gives no more time";
}

TEST_F(PrefetcherTest, WhoseImageIsForbiddenNowLearnsIt) {
  prefetcher_->Restore({{{.id = "h", .reference = "forbidden"}, std::chrono::system_clock::now()}});
  EXPECT_EQ(StateOf("h"), HintState::kFailed);
  EXPECT_TRUE(absl::IsPermissionDenied(Of("h").error));
  EXPECT_THAT(preparer_.resolved, IsEmpty());
}

TEST_F(PrefetcherTest, AJournalThatCantBeWrittenIsTriedAgain) {
  std::filesystem::create_directory(dir_.File("hints.json"));
  SubmitOnly({.id = "a", .reference = "app"});
  Pass(Prefetcher::Limits{}.save_delay);
  std::filesystem::remove(dir_.File("hints.json"));
  EXPECT_THAT(Journalled(), IsEmpty());
  Pass(Prefetcher::Limits{}.save_retry);
  EXPECT_THAT(Journalled(), ElementsAre("a"));
}

TEST_F(PrefetcherTest, WhatIsToBePinnedIsPinnedBeforeTheHintLetsGo) {
  SubmitOnly({.id = "h", .reference = "app", .pin = true});
  Settle();
  EXPECT_THAT(pinned_, IsEmpty());
  EXPECT_THAT(std::string(SubmitOnly({.id = "h", .reference = "app"}).error.message()), HasSubstr("pin"));
  while (!source_.calls.empty()) {
    source_.Take().SendAll();
    while (loop_.Run() + io_.Run() > 0) {
    }
  }
  EXPECT_EQ(StateOf("h"), HintState::kFetching);
  EXPECT_GT(Leases(1), 0u) << "nothing may evict it in between";
  Settle();
  EXPECT_EQ(StateOf("h"), HintState::kCompleted);
  EXPECT_THAT(pinned_, UnorderedElementsAre(NameOf(1), NameOf(2), NameOf(100)));
  EXPECT_EQ(Leases(1), 0u);
}

TEST_F(PrefetcherTest, WhatCantBePinnedFailsAndNobodyElsePinsAnything) {
  pin_error_ = absl::ResourceExhaustedError("more than half would be pinned");
  SubmitOnly({.id = "h", .reference = "other", .pin = true});
  Submit("plain", "other");
  AnswerAll(absl::OkStatus());
  EXPECT_EQ(StateOf("h"), HintState::kFailed);
  EXPECT_EQ(Of("h").error, pin_error_);
  EXPECT_EQ(Of("h").present_bytes, Of("h").total_bytes);
  EXPECT_EQ(StateOf("plain"), HintState::kCompleted);
  EXPECT_THAT(pinned_, SizeIs(1));
}

}  // namespace
}  // namespace sluice
