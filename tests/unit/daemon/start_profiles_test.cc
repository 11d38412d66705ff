#include "node/daemon/start_profiles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr uint32_t kChunk = kChunkSizeDefault;

Digest Named(uint8_t name) {
  std::array<uint8_t, 32> bytes{name};
  return Digest(bytes);
}

class StartProfilesTest : public ::testing::Test {
 protected:
  StartProfilesTest() {
    for (uint8_t name : {1, 2})
      blobs_.push_back(
          *store_.Open({.digest = Named(name), .size = 100 * kChunk, .root = {}, .origins = {}}));
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, io_, store_, verifier_, sources_, telemetry_}, BlobCacheLimits{});
    folder_ = std::filesystem::path(testing::TempDir()) /
              absl::StrCat("profiles-", testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    profiles_ = std::make_unique<ProfileStore>(folder_.string());
    Restart({});
  }
  ~StartProfilesTest() override {
    starts_.reset();
    cache_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Restart(StartProfiles::Options options) {
    if (options.recorder.empty()) options.recorder = "self";
    starts_ = std::make_unique<StartProfiles>(
        StartProfiles::Parts{
            clock_, loop_, io_, *cache_, *profiles_, nullptr, nullptr, telemetry_, reports_,
            [this](const BlobKey& key, ChunkSet& touched) {
              for (const uint32_t chunk : touched_[key]) touched.Add(ChunkIndex(chunk));
              touched_[key].clear();
              return true;
            },
            [this](const std::shared_ptr<Blob>& blob) { unwatched_.push_back(blob->key()); },
            [this] { return sees_present_reads_; }, [this] { return lacks_what_is_absent_; },
            [](const std::string&, const Digest&) { return true; },
            [this](const std::vector<std::shared_ptr<Blob>>& blobs, const ImageProfile& read) {
              EXPECT_EQ(blobs.size(), blobs_.size());
              for (const ProfileSpan& span : read.spans)
                watched_.emplace_back(span.blob, span.chunks.first.value());
            }},
        std::move(options));
  }

  void Settle() {
    while (loop_.Run() + io_.Run() > 0) {
    }
  }
  void Pass(Duration time) {
    const Instant end = clock_.now + time;
    while (clock_.now < end) {
      clock_.now = std::min(end, clock_.now + StartProfiles::kLookInterval);
      Settle();
    }
  }
  void Mount(const std::string& at = "/mnt",
             api::StartRecording recording = api::StartRecording::kAsConfigured) {
    starts_->Resolved({"registry", "image"}, Named(9));
    starts_->Preparing(at, "registry/image:1", Named(9), blobs_, recording);
    Settle();
  }
  // As a mounter does beside.
  void Report() {
    api::StartReport report;
    report.mount_point = "/mnt";
    reports_.Begin(std::move(report), blobs_);
    reports_.Mounted("/mnt");
  }
  void Unmount(const std::string& at = "/mnt") {
    starts_->Unmounted(at);
    Settle();
  }
  void Demand(uint32_t blob, uint32_t chunk) {
    starts_->Demanded(blobs_[blob]->key(), {uint64_t{chunk} * kChunk, 4096});
    Settle();
  }
  void ReadPresent(uint32_t blob, uint32_t chunk) { touched_[blobs_[blob]->key()].insert(chunk); }
  void Complete(uint32_t blob) {
    for (uint32_t i = 0; i < 100; ++i) blobs_[blob]->presence().Set(ChunkIndex(i));
  }
  std::vector<std::pair<uint32_t, uint32_t>> Known() const {  // blob and chunk, in the order of need
    std::vector<std::pair<uint32_t, uint32_t>> known;
    const absl::StatusOr<p2p::KeptProfile> kept = profiles_->Get(Named(9));
    if (!kept.ok()) return known;
    for (const ProfileSpan& span : kept->profile.spans) {
      for (uint32_t c = 0; c < span.chunks.count; ++c)
        known.emplace_back(span.blob, span.chunks.first.value() + c);
    }
    return known;
  }
  uint32_t Runs() const {
    const absl::StatusOr<p2p::KeptProfile> kept = profiles_->Get(Named(9));
    return kept.ok() ? kept->profile.runs : 0;
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor loop_{clock_}, io_{clock_};
  fakes::MemoryStore store_;
  fakes::FakeVerifier verifier_;
  fakes::FakeSource source_;
  FixedSources sources_{{{SourceRank::kOrigin, &source_}}};
  Telemetry telemetry_;
  StartReports reports_{clock_};
  std::filesystem::path folder_;
  std::vector<std::shared_ptr<Blob>> blobs_;
  std::unique_ptr<BlobCache> cache_;
  std::unique_ptr<ProfileStore> profiles_;
  std::map<BlobKey, std::set<uint32_t>> touched_;
  std::vector<BlobKey> unwatched_;
  std::vector<std::pair<uint32_t, uint32_t>>
      watched_;  // blob and first chunk of what watched starts have read
  bool sees_present_reads_ = true;
  bool lacks_what_is_absent_ = true;
  std::unique_ptr<StartProfiles> starts_;
};

TEST_F(StartProfilesTest, AStartIsRecordedAndBroughtInAheadOfTheNext) {
  Mount();
  Demand(1, 30);
  Pass(seconds(1));
  Demand(0, 7);
  ReadPresent(0, 8);
  Pass(seconds(1));
  EXPECT_THAT(source_.calls, IsEmpty());
  Unmount();
  EXPECT_THAT(Known(), ElementsAre(std::pair(1, 30), std::pair(0, 7), std::pair(0, 8)));
  EXPECT_EQ(telemetry_.profile_recordings.value(), 1u);

  Mount();
  ASSERT_THAT(source_.calls, SizeIs(2));
  EXPECT_EQ(source_.calls[0].request.blob, blobs_[1]);
  EXPECT_EQ(source_.calls[0].request.chunks, (ChunkSpan{ChunkIndex(30), 1}));
  EXPECT_EQ(source_.calls[1].request.chunks, (ChunkSpan{ChunkIndex(7), 2}));
  EXPECT_EQ(telemetry_.profile_replays.value(), 1u);
}

TEST_F(StartProfilesTest, AReportSaysWhatAProfileForesawAndWhatReadersWaitedFor) {
  Report();
  Mount();
  Demand(1, 30);
  ReadPresent(0, 7);
  Pass(seconds(1));
  const std::optional<api::StartReport> first = reports_.Of("/mnt");
  ASSERT_TRUE(first);
  EXPECT_EQ(first->touched.waited, kChunk);
  EXPECT_EQ(first->touched.other, kChunk);
  EXPECT_EQ(first->touched.profile, 0u);
  Unmount();

  Report();
  Mount();
  ASSERT_THAT(source_.calls, SizeIs(2));
  source_.Take().SendAll();
  Settle();
  ReadPresent(1, 30);
  ReadPresent(1, 30);
  Pass(seconds(1));
  Demand(0, 7);  // on its way
  Demand(0, 99);
  const std::optional<api::StartReport> second = reports_.Of("/mnt");
  ASSERT_TRUE(second);
  EXPECT_EQ(second->touched.profile, kChunk);
  EXPECT_EQ(second->touched.waited, 2 * kChunk);
  EXPECT_EQ(second->touched.here + second->touched.readahead + second->touched.other, 0u);
}

TEST_F(StartProfilesTest, WhoeverWantsToBringItInWithoutAStartIsTold) {
  EXPECT_FALSE(starts_->Find(Named(9)));
  Mount();
  Demand(1, 30);
  Unmount();
  const std::optional<ImageProfile> found = starts_->Find(Named(9));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->runs, 1u);
  ASSERT_THAT(found->spans, SizeIs(1));
  EXPECT_EQ(found->spans[0].blob, 1u);
  EXPECT_EQ(found->spans[0].chunks, (ChunkSpan{ChunkIndex(30), 1}));
  EXPECT_FALSE(starts_->Find(Named(8)));
}

TEST_F(StartProfilesTest, ARecordingEndsByItself) {
  Mount();
  Pass(seconds(100));
  Demand(0, 1);
  Pass(seconds(59));
  EXPECT_EQ(Runs(), 0u);
  Pass(seconds(2));
  EXPECT_EQ(Runs(), 1u) << "a minute from the first read on";
  Demand(0, 50);
  Unmount();
  EXPECT_THAT(Known(), ElementsAre(std::pair(0, 1)));
  EXPECT_EQ(Runs(), 1u);
}

TEST_F(StartProfilesTest, NothingReadIsNothingRecorded) {
  Mount();
  Pass(StartProfiles::kFirstTouchMax + seconds(1));
  Demand(0, 1);
  Unmount();
  EXPECT_EQ(Runs(), 0u);
  EXPECT_EQ(io_.timer_count(), 0u) << "nobody looks where nothing starts";
}

TEST_F(StartProfilesTest, WhatIsWholeIsReadUnaskedOnlyAfterAMinute) {
  Mount();
  Complete(0);
  EXPECT_TRUE(starts_->Watches(blobs_[0]->key()));
  EXPECT_TRUE(starts_->Watches(blobs_[1]->key()));
  EXPECT_FALSE(starts_->Watches(Named(77)));
  Pass(seconds(59));
  EXPECT_THAT(unwatched_, IsEmpty());
  Pass(seconds(2));
  EXPECT_FALSE(starts_->Watches(blobs_[0]->key()));
  EXPECT_THAT(unwatched_, ElementsAre(blobs_[0]->key()));
}

TEST_F(StartProfilesTest, AWatchEndsWithTheMountUnlessAnotherWatches) {
  Mount("/a");
  Mount("/b");
  Complete(0);
  Unmount("/a");
  EXPECT_THAT(unwatched_, IsEmpty());
  Unmount("/b");
  EXPECT_THAT(unwatched_, ElementsAre(blobs_[0]->key()));
}

TEST_F(StartProfilesTest, AWholeImageThatIsKnownWellIsNotWatched) {
  for (uint32_t i = 0; i < StartProfiles::kStartsEnough; ++i) {
    Mount();
    Demand(0, 1);
    clock_.now += milliseconds(5);
    Unmount();
    source_.calls.clear();
    std::this_thread::sleep_for(milliseconds(2));  // starts are told apart by the wall clock
  }
  ASSERT_EQ(Runs(), StartProfiles::kStartsEnough);
  Mount();
  EXPECT_TRUE(starts_->Watches(blobs_[0]->key())) << "not whole";
  Unmount();
  Complete(0);
  Complete(1);
  Mount();
  EXPECT_FALSE(starts_->Watches(blobs_[0]->key()));
}

TEST_F(StartProfilesTest, WhatAWatchedStartHasReadIsToldWhenItIsOver) {
  Complete(0);
  Mount();
  ReadPresent(0, 7);
  Pass(milliseconds(200));
  Demand(1, 3);
  EXPECT_THAT(watched_, IsEmpty());
  Unmount();
  EXPECT_THAT(watched_, ElementsAre(std::pair(0u, 7u), std::pair(1u, 3u)));
  watched_.clear();
  Mount();
  Unmount();
  EXPECT_THAT(watched_, IsEmpty()) << "nobody has started";
  Mount();
  ReadPresent(0, 9);
  Pass(seconds(70));
  EXPECT_THAT(watched_, ElementsAre(std::pair(0u, 9u))) << "the watch has ended by itself";
  watched_.clear();
  Unmount();
  sees_present_reads_ = false;
  Mount();
  Demand(0, 1);
  Unmount();
  EXPECT_THAT(watched_, IsEmpty()) << "nobody sees what is read";
}

TEST_F(StartProfilesTest, WhereReadsAreNotSeenNothingIsWatchedNorForgotten) {
  sees_present_reads_ = false;
  Mount();
  Demand(0, 1);
  Unmount();
  for (int i = 0; i < 12; ++i) {
    Mount();
    EXPECT_FALSE(starts_->Watches(blobs_[0]->key()));
    Demand(0, 2);
    Unmount();
    source_.calls.clear();
    std::this_thread::sleep_for(milliseconds(2));
  }
  EXPECT_THAT(Known(), testing::Contains(std::pair(0u, 1u)));
}

TEST_F(StartProfilesTest, WhatTheKernelMayHaveAloneIsNotBroughtIn) {
  Mount();
  Demand(0, 1);
  Unmount();
  lacks_what_is_absent_ = false;
  Mount();
  EXPECT_THAT(source_.calls, IsEmpty());
  EXPECT_EQ(telemetry_.profile_replays.value(), 0u);
}

TEST_F(StartProfilesTest, DrainedNothingIsBroughtInAheadOfAStart) {
  Mount();
  Demand(0, 1);
  Demand(0, 50);
  Unmount();
  Mount("/a");
  ASSERT_THAT(source_.calls, SizeIs(2));
  starts_->SetDrain(api::DrainState::kDrained);
  Settle();
  for (const fakes::FakeSource::Call& call : source_.calls) EXPECT_TRUE(call.control->cancelled);
  source_.calls.clear();
  Unmount("/a");
  Mount("/b");
  EXPECT_THAT(source_.calls, IsEmpty());
  starts_->SetDrain(api::DrainState::kServing);
  Settle();
  EXPECT_THAT(source_.calls, IsEmpty()) << "a start that was left alone stays so";
  Mount("/c");
  EXPECT_THAT(source_.calls, SizeIs(2));
}

TEST_F(StartProfilesTest, OneKeeperAnswersForAllWhoStart) {
  Mount("/a");
  Mount("/b");
  ReadPresent(0, 5);
  Pass(milliseconds(200));
  Unmount("/a");
  EXPECT_EQ(Runs(), 1u);
  std::this_thread::sleep_for(milliseconds(2));
  Unmount("/b");
  EXPECT_THAT(Known(), ElementsAre(std::pair(0, 5)));
}

// With the mount the keeper forgets it.
TEST_F(StartProfilesTest, WhatIsReadJustBeforeTheUnmountIsPartOfIt) {
  Mount();
  ReadPresent(0, 3);
  Pass(seconds(1));
  ReadPresent(1, 8);
  starts_->Unmounted("/mnt");
  touched_.clear();
  Settle();
  EXPECT_THAT(Known(), ElementsAre(Pair(0, 3), Pair(1, 8)));
}

TEST_F(StartProfilesTest, WhatWasReadBeforeTheMountIsNoPartOfIt) {
  ReadPresent(0, 5);
  Mount();
  Demand(0, 1);
  Pass(seconds(1));
  Unmount();
  EXPECT_THAT(Known(), ElementsAre(std::pair(0, 1)));
}

TEST_F(StartProfilesTest, AStopKeepsWhatWasRecorded) {
  Mount();
  Demand(0, 1);
  starts_->Stop();
  EXPECT_THAT(Known(), ElementsAre(std::pair(0, 1)));
  Demand(0, 2);
  Mount("/later");
  Settle();
  EXPECT_FALSE(starts_->Watches(blobs_[0]->key()));
}

TEST_F(StartProfilesTest, BothPartsCanBeTurnedOff) {
  Mount();
  Demand(0, 1);
  Unmount();
  Restart({.replay = false, .record = Duration(0)});
  Mount();
  EXPECT_THAT(source_.calls, IsEmpty());
  EXPECT_FALSE(starts_->Watches(blobs_[0]->key()));
  Demand(0, 2);
  Unmount();
  EXPECT_EQ(Runs(), 1u);
}

TEST_F(StartProfilesTest, StrangersAreToldOfPublicImagesOnly) {
  const auto given = [this] {
    absl::StatusOr<std::string> answer = absl::UnknownError("no answer");
    starts_->Give(Named(9), [&](absl::StatusOr<std::string> text) { answer = std::move(text); });
    Settle();
    return answer;
  };
  EXPECT_TRUE(absl::IsNotFound(given().status()));
  p2p::KeptProfile kept;
  kept.Merge({Named(9), "a", 1, p2p::ImageAccess::kPrivate, {1, {{0, {ChunkIndex(1), 1}, 0}}, {}}});
  ASSERT_TRUE(profiles_->Offer(kept).ok());
  EXPECT_EQ(given().status(), absl::NotFoundError("it is not here")) << "as what is nowhere";
  Restart({.trust = PeerTrust::kProven});
  ASSERT_TRUE(given().ok());
  EXPECT_EQ(p2p::ParseKept(*given())->profile, kept.profile);
}

TEST_F(StartProfilesTest, ADamagedFileIsAsNone) {
  Mount();
  Demand(0, 1);
  Unmount();
  for (const auto& file : std::filesystem::directory_iterator(folder_))
    std::ofstream(file.path()) << "{\"version\":1,\"spans\":[[0,";
  Mount();
  EXPECT_THAT(source_.calls, IsEmpty());
  Demand(0, 2);
  Unmount();
  EXPECT_THAT(Known(), ElementsAre(std::pair(0, 2)));
}

TEST_F(StartProfilesTest, WhatIsRecordedForItsOwnSakeIsWholeAndReplaysNothing) {
  Mount();
  Demand(0, 1);
  Unmount();
  std::this_thread::sleep_for(milliseconds(2));
  Restart({.record = Duration(0)});  // whatever is configured
  Complete(0);
  Mount("/recorded", api::StartRecording::kWhileMounted);
  EXPECT_EQ(telemetry_.profile_replays.value(), 0u);
  EXPECT_TRUE(starts_->Watches(blobs_[0]->key()));
  Demand(1, 50);
  Pass(StartProfiles::kWatchMax + seconds(10));
  EXPECT_TRUE(starts_->Watches(blobs_[0]->key()));
  ReadPresent(0, 9);
  Pass(StartProfiles::kFirstTouchMax);
  Demand(1, 60);
  EXPECT_EQ(Runs(), 1u);
  Unmount("/recorded");
  EXPECT_EQ(Runs(), 2u);
  EXPECT_THAT(Known(), ElementsAre(std::pair(0, 1), std::pair(1, 50), std::pair(0, 9), std::pair(1, 60)));
  EXPECT_FALSE(starts_->Watches(blobs_[0]->key()));
}

TEST(ProfileStoreTest, OfFewerStartsNothingIsTakenAndTheOldestGo) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "profile-store";
  std::filesystem::remove_all(folder);
  ProfileStore store(folder.string());
  const auto of_runs = [](uint8_t name, uint32_t runs) {
    return p2p::KeptProfile{
        Named(name), p2p::ImageAccess::kPublic, {runs, {{0, {ChunkIndex(runs), 1}, 0}}, {}}, {}};
  };
  ASSERT_TRUE(store.Offer(of_runs(1, 5)).ok());
  ASSERT_TRUE(store.Offer(of_runs(1, 4)).ok());
  EXPECT_EQ(store.Get(Named(1))->profile.runs, 5u);
  ASSERT_TRUE(store.Offer(of_runs(1, 6)).ok());
  EXPECT_EQ(store.Get(Named(1))->profile.runs, 6u);
  EXPECT_TRUE(absl::IsNotFound(store.Get(Named(2)).status()));
  // Another's file under this name is not its.
  std::filesystem::copy_file(folder / (Named(1).Hex() + ".json"), folder / (Named(2).Hex() + ".json"));
  EXPECT_TRUE(absl::IsNotFound(store.Get(Named(2)).status()));
  for (size_t i = 0; i < ProfileStore::kProfilesMax; ++i)
    std::ofstream(folder / absl::StrCat("older-", i, ".json")) << "x";
  const auto long_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().filename().string().starts_with("older"))
      std::filesystem::last_write_time(file.path(), long_ago);
  }
  ProfileStore later(folder.string());
  ASSERT_TRUE(later.Offer(of_runs(3, 1)).ok());
  EXPECT_TRUE(later.Get(Named(1)).ok());
  EXPECT_TRUE(later.Get(Named(3)).ok());
  const auto files = std::distance(std::filesystem::directory_iterator(folder), {});
  EXPECT_LE(static_cast<size_t>(files), ProfileStore::kProfilesMax);
  std::filesystem::remove_all(folder);
}

TEST_F(StartProfilesTest, WhoAsksAfterAnUnmountWaitsUntilTheStartIsKept) {
  Mount();
  Demand(0, 7);
  starts_->Unmounted("/mnt");
  std::atomic<bool> asked{false};
  uint32_t runs = 0;
  std::thread asker([&] {
    asked = true;
    starts_->AwaitEnded(Named(9), clock_.now + seconds(60));
    runs = Runs();
  });
  while (!asked) std::this_thread::yield();
  Settle();
  asker.join();
  EXPECT_EQ(runs, 1u);
  // Of others, and once it is kept, nobody waits.
  starts_->AwaitEnded(Named(9), clock_.now + seconds(60));
  Mount();
  Demand(0, 7);
  starts_->Unmounted("/mnt");
  starts_->AwaitEnded(Named(8), clock_.now + seconds(60));
  // Nor longer than until the deadline.
  starts_->AwaitEnded(Named(9), clock_.now);
  EXPECT_EQ(Runs(), 1u);
}

}  // namespace
}  // namespace sluice
