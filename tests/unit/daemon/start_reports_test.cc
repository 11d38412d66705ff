#include "node/daemon/start_reports.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Touch = StartReports::Touch;

constexpr uint32_t kChunk = kChunkSizeDefault;

class StartReportsTest : public ::testing::Test {
 protected:
  StartReportsTest() {
    for (uint8_t name : {1, 2}) {
      const Digest digest(std::array<uint8_t, Digest::kBytes>{name});
      // The last chunk is a short one.
      blobs_.push_back(*store_.Open({.digest = digest, .size = 9 * kChunk + 100, .root = {}, .origins = {}}));
    }
  }

  void Mount(const std::string& at = "/mnt", std::vector<uint32_t> blobs = {0}) {
    api::StartReport report;
    report.reference = "registry/image:1";
    report.mount_point = at;
    std::vector<std::shared_ptr<Blob>> of_image;
    for (const uint32_t blob : blobs) of_image.push_back(blobs_[blob]);
    reports_.Begin(std::move(report), of_image);
    clock_.now += milliseconds(5);
    reports_.Mounted(at);
  }
  static ReadResult Result(bool foreseen = false, SourceKind source = SourceKind::kOrigin) {
    ReadResult result{source};
    result.times = {milliseconds(1), milliseconds(20), milliseconds(10),
                    milliseconds(2), milliseconds(3),  foreseen};
    return result;
  }
  // A read that waits so long.
  void Read(Duration wait, const absl::StatusOr<ReadResult>& result, uint32_t blob = 0) {
    const uint64_t read = reports_.ReadBegan(blobs_[blob]->key());
    clock_.now += wait;
    reports_.ReadEnded(blobs_[blob]->key(), read, 4096, wait, result);
  }
  void Touched(uint32_t chunk, Touch touch) {
    reports_.Touched("/mnt", *blobs_[0], {ChunkIndex(chunk), 1}, touch);
  }
  void Came(uint32_t chunk, FetchClass asked_as) {
    blobs_[0]->presence().Set(ChunkIndex(chunk));
    reports_.Came(*blobs_[0], ChunkIndex(chunk), asked_as, SourceKind::kOrigin);
  }
  api::StartReport Of(const std::string& at = "/mnt") const {
    const std::optional<api::StartReport> report = reports_.Of(at);
    EXPECT_TRUE(report) << at;
    return report.value_or(api::StartReport());
  }
  static const api::WaitedReads& From(const api::StartReport& report, SourceKind source) {
    return report.waited[static_cast<size_t>(source)];
  }

  fakes::FakeClock clock_;
  fakes::MemoryStore store_;
  std::vector<std::shared_ptr<Blob>> blobs_;
  StartReports reports_{clock_};
};

TEST_F(StartReportsTest, WhatAWaitWentIntoIsCountedBySource) {
  Mount();
  EXPECT_EQ(Of().mounting, milliseconds(5));
  Read(milliseconds(40), Result());
  Read(milliseconds(40), Result(true));
  Read(milliseconds(50), Result(false, SourceKind::kPeer));
  Read(milliseconds(10), absl::UnavailableError("away"));
  const api::StartReport report = Of();
  const api::WaitedReads& origin = From(report, SourceKind::kOrigin);
  EXPECT_EQ(origin.reads, 2u);
  EXPECT_EQ(origin.bytes, 2u * 4096);
  EXPECT_EQ(origin.waited, milliseconds(80));
  EXPECT_EQ(origin.queued, milliseconds(2));
  EXPECT_EQ(origin.answer, milliseconds(40));
  EXPECT_EQ(origin.wire, milliseconds(20));
  EXPECT_EQ(origin.verified, milliseconds(4));
  EXPECT_EQ(origin.stored, milliseconds(6));
  EXPECT_EQ(origin.foreseen, 1u);
  EXPECT_EQ(From(report, SourceKind::kPeer).waited, milliseconds(50));
  EXPECT_EQ(From(report, SourceKind::kLocal).reads, 0u);
  EXPECT_EQ(report.failed, 1u);
  EXPECT_EQ(report.waiting, milliseconds(140));
  EXPECT_EQ(report.watched, milliseconds(140));
}

TEST_F(StartReportsTest, TimeInWhichSeveralWaitCountsOnce) {
  Mount();
  const BlobKey key = blobs_[0]->key();
  const uint64_t first = reports_.ReadBegan(key);
  clock_.now += milliseconds(10);
  const uint64_t second = reports_.ReadBegan(key);
  clock_.now += milliseconds(10);
  EXPECT_EQ(Of().waiting, milliseconds(20)) << "so far";
  reports_.ReadEnded(key, first, 1, milliseconds(20), Result());
  clock_.now += milliseconds(10);
  reports_.ReadEnded(key, second, 1, milliseconds(20), Result());
  clock_.now += milliseconds(70);
  EXPECT_EQ(Of().waiting, milliseconds(30));
  EXPECT_EQ(Of().watched, milliseconds(100));
}

TEST_F(StartReportsTest, AMinuteAfterTheFirstReadAStartIsOver) {
  Mount();
  clock_.now += seconds(500);
  Read(milliseconds(40), Result());
  Touched(1, Touch::kWaits);
  EXPECT_FALSE(Of().over);
  clock_.now += StartReports::kLengthDefault - milliseconds(41);
  // It waits beyond the end, which counts until then.
  Read(seconds(5), Result());
  Touched(2, Touch::kWaits);
  Read(milliseconds(40), Result());
  Came(1, FetchClass::kHint);
  const api::StartReport report = Of();
  EXPECT_TRUE(report.over);
  EXPECT_EQ(From(report, SourceKind::kOrigin).reads, 1u);
  EXPECT_EQ(report.touched.waited, kChunk);
  EXPECT_EQ(report.touched.late, 0u);
  EXPECT_EQ(report.waiting, milliseconds(41));
  EXPECT_EQ(report.watched, seconds(500) + StartReports::kLengthDefault);
}

TEST_F(StartReportsTest, OneThatNobodyReadsOfIsOverToo) {
  Mount();
  clock_.now += StartReports::kFirstReadMax - milliseconds(1);
  EXPECT_FALSE(Of().over);
  clock_.now += milliseconds(1);
  EXPECT_TRUE(Of().over);
  Read(milliseconds(40), Result());
  Touched(1, Touch::kWaits);
  EXPECT_EQ(Of().waiting, Duration(0));
  EXPECT_EQ(Of().touched.waited, 0u);
  EXPECT_EQ(Of().watched, StartReports::kFirstReadMax);
}

TEST_F(StartReportsTest, WhatIsTouchedCountsByHowItWasFound) {
  blobs_[0]->presence().Set(ChunkIndex(0));
  Mount();
  reports_.Foreseen("/mnt", 0, {ChunkIndex(1), 2});
  Came(1, FetchClass::kReadahead);
  Came(3, FetchClass::kReadahead);
  Came(4, FetchClass::kHint);
  Came(5, FetchClass::kBackfill);
  Came(6, FetchClass::kDemand);
  for (const uint32_t chunk : {0, 1, 3, 4, 5, 6}) Touched(chunk, Touch::kPasses);
  const api::TouchedBytes here = Of().touched;
  EXPECT_EQ(here.here, kChunk);
  EXPECT_EQ(here.profile, kChunk);
  EXPECT_EQ(here.readahead, kChunk);
  EXPECT_EQ(here.hint, kChunk);
  EXPECT_EQ(here.fill, kChunk);
  EXPECT_EQ(here.other, kChunk);
  EXPECT_EQ(here.waited, 0u);

  // Foreseen or not, a reader waits for it.
  Touched(2, Touch::kWaits);
  Touched(9, Touch::kWaits);
  EXPECT_EQ(Of().touched.waited, kChunk + 100);
  EXPECT_EQ(Of().touched.late, 0u);
  Came(2, FetchClass::kReadahead);
  Came(9, FetchClass::kDemand);
  EXPECT_EQ(Of().touched.late, kChunk);
  EXPECT_EQ(Of().touched.profile, kChunk) << "it came too late to count";
}

TEST_F(StartReportsTest, AReadThatFindsWhatItWantedHasNotWaitedForIt) {
  Mount();
  Came(7, FetchClass::kReadahead);
  Touched(7, Touch::kWaits);
  EXPECT_EQ(Of().touched.waited, 0u);
  EXPECT_EQ(Of().touched.readahead, kChunk);
}

TEST_F(StartReportsTest, AProfileOfWhatTheImageHasNotIsPassedOver) {
  Mount();
  reports_.Foreseen("/mnt", 1, {ChunkIndex(0), 1});
  reports_.Foreseen("/mnt", 0, {ChunkIndex(9), 2});
  reports_.Foreseen("/mnt", 0, {ChunkIndex(10), 1});
  reports_.Foreseen("/mnt", 0, {ChunkIndex(1), UINT32_MAX});
  reports_.Foreseen("/other", 0, {ChunkIndex(0), 1});
  Came(9, FetchClass::kReadahead);
  Touched(9, Touch::kPasses);
  EXPECT_EQ(Of().touched.profile, 0u);
  EXPECT_EQ(Of().touched.readahead, 100u);
}

TEST_F(StartReportsTest, WhatMountsShareCountsForEachAndNothingElseDoes) {
  Mount("/a", {0, 1});
  Mount("/b", {1});
  Read(milliseconds(10), Result(), 0);
  Read(milliseconds(20), Result(), 1);
  EXPECT_EQ(Of("/a").waiting, milliseconds(30));
  EXPECT_EQ(Of("/b").waiting, milliseconds(20));
}

TEST_F(StartReportsTest, AReadOfBeforeTheMountIsAnotherMounts) {
  Mount("/a");
  const BlobKey key = blobs_[0]->key();
  const uint64_t before = reports_.ReadBegan(key);
  Mount("/b");
  const uint64_t after = reports_.ReadBegan(key);
  clock_.now += milliseconds(10);
  reports_.ReadEnded(key, before, 1, milliseconds(15), Result());
  EXPECT_EQ(From(Of("/a"), SourceKind::kOrigin).reads, 1u);
  EXPECT_EQ(From(Of("/b"), SourceKind::kOrigin).reads, 0u);
  clock_.now += milliseconds(10);
  reports_.ReadEnded(key, after, 1, milliseconds(20), Result());
  EXPECT_EQ(Of("/b").waiting, milliseconds(20));
  EXPECT_EQ(From(Of("/b"), SourceKind::kOrigin).waited, milliseconds(20));
}

TEST_F(StartReportsTest, AReadThatComesBeforeTheMountIsToldOfIsWithinWhatWasWatched) {
  api::StartReport report;
  report.mount_point = "/mnt";
  reports_.Begin(std::move(report), {blobs_[0]});
  EXPECT_FALSE(reports_.Of("/mnt")) << "it may fail yet";
  clock_.now += milliseconds(5);
  const uint64_t read = reports_.ReadBegan(blobs_[0]->key());
  clock_.now += milliseconds(10);
  reports_.Mounted("/mnt");
  reports_.ReadEnded(blobs_[0]->key(), read, 1, milliseconds(10), Result());
  EXPECT_EQ(Of().mounting, milliseconds(5));
  EXPECT_EQ(Of().waiting, milliseconds(10));
  EXPECT_EQ(Of().watched, milliseconds(10));
}

TEST_F(StartReportsTest, AnEndedMountIsForgottenAndAnotherThereBeginsAnew) {
  Mount();
  Read(milliseconds(40), Result());
  reports_.End("/mnt");
  reports_.End("/mnt");
  EXPECT_FALSE(reports_.Of("/mnt"));
  Mount();
  EXPECT_EQ(Of().waiting, Duration(0));
  EXPECT_FALSE(reports_.Of("/elsewhere"));
}

TEST_F(StartReportsTest, AMovedMountKeepsWhatWasCountedAndIsWatchedNoMore) {
  Mount();
  const uint64_t read = reports_.ReadBegan(blobs_[0]->key());
  clock_.now += milliseconds(10);
  reports_.Moved("/mnt", "/moved");
  reports_.Moved("/nothing", "/there");
  clock_.now += milliseconds(10);
  reports_.ReadEnded(blobs_[0]->key(), read, 1, milliseconds(20), Result());
  EXPECT_FALSE(reports_.Of("/mnt"));
  EXPECT_FALSE(reports_.Of("/there"));
  EXPECT_TRUE(Of("/moved").over);
  EXPECT_EQ(Of("/moved").mount_point, "/moved");
  EXPECT_EQ(Of("/moved").waiting, milliseconds(10));
  EXPECT_EQ(Of("/moved").watched, milliseconds(10));
}

}  // namespace
}  // namespace sluice
