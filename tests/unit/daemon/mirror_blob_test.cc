#include "node/daemon/mirror_blob.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "tests/unit/index/store_fixture.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using std::chrono::seconds;

constexpr uint64_t kBlobBytes = 16 << 20;
// What an answer begins with: 256 KiB.
constexpr uint64_t kBeginBytes = 256 << 10;
constexpr int kPartsMax = 64;

class MirrorBlobTest : public index::StoreTest {
 protected:
  void SetUp() override {
    OpenStore();
    sample_.spec.origins = {{"registry.example", "app"}};
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, io_, *store_, verifier_, sources_, telemetry_}, BlobCacheLimits{});
    fills_ = std::make_unique<BackgroundFill>(clock_, loop_, *cache_, BackgroundFill::Limits{});
    blob_ = std::make_shared<CachedMirrorBlob>(
        CachedMirrorBlob::Parts{clock_, io_, *store_, *cache_, *fills_, telemetry_},
        CachedMirrorBlob::Limits{.first_part = seconds(5), .next_part = seconds(60)}, sample_.spec,
        CachedMirrorBlob::Finding{.access = OriginAccess::kPublic, .at_ms = 1}, CachedMirrorBlob::Right{});
  }
  void TearDown() override {
    parts_.reset();
    fills_.reset();
    Settle();
    cache_.reset();
  }

  void Settle() {
    while (loop_.Run() + io_.Run() > 0) {
    }
  }
  // Asks for all of it; sets opened_ and parts_ when it is answered.
  void OpenAll() {
    blob_->Open({0, kBlobBytes}, [this](std::unique_ptr<api::HttpParts> parts) {
      opened_ = true;
      parts_ = std::move(parts);
    });
    Settle();
  }
  // Of what was asked for and has not come, as readers' reads are; all of it, so that the range is of bytes.
  std::optional<ByteRange> Demanded() const {
    std::optional<ByteRange> demanded;
    for (const fakes::FakeSource::Call& call : source_.calls) {
      if (call.control->raised.value_or(call.request.fetch_class) != FetchClass::kDemand) continue;
      const ByteRange range = call.request.blob->geometry().RangeOf(call.request.chunks);
      const uint64_t from = demanded ? std::min(demanded->offset, range.offset) : range.offset;
      const uint64_t to = demanded ? std::max(demanded->end(), range.end()) : range.end();
      demanded = ByteRange{from, to - from};
    }
    return demanded;
  }
  void SendDemanded() {
    for (size_t left = source_.calls.size(); left > 0; --left) {
      fakes::FakeSource::Call call = source_.Take();
      if (call.control->raised.value_or(call.request.fetch_class) == FetchClass::kDemand) {
        call.SendAll();
      } else {
        source_.calls.push_back(std::move(call));
      }
    }
    Settle();
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor loop_{clock_}, io_{clock_};
  index::NoVerifier verifier_;
  fakes::FakeSource source_;
  FixedSources sources_{{{SourceRank::kOrigin, &source_}}};
  index::SampleBlob sample_{1, kBlobBytes};
  std::unique_ptr<BlobCache> cache_;
  std::unique_ptr<BackgroundFill> fills_;
  std::shared_ptr<CachedMirrorBlob> blob_;
  bool opened_ = false;
  std::unique_ptr<api::HttpParts> parts_;
};

// In a crowd that pulls the same they came after the budget, behind everybody's fills, and all went to the
// registry.
TEST_F(MirrorBlobTest, TheFirstBytesAreAskedForAsReadersAreServedAndNoOthers) {
  OpenAll();
  EXPECT_FALSE(opened_);
  ASSERT_TRUE(Demanded());
  EXPECT_EQ(Demanded()->offset, 0u);
  // What a fill asks for together is raised together.
  EXPECT_GE(Demanded()->length, kBeginBytes);
  EXPECT_LT(Demanded()->length, kBlobBytes / 2);
  SendDemanded();
  ASSERT_TRUE(opened_);
  ASSERT_TRUE(parts_);

  int asked = 0;
  const auto got = std::make_shared<int>();  // the last part is answered when the blob is let go of
  while (asked == *got && asked < kPartsMax) {
    ++asked;
    parts_->Next([got](absl::StatusOr<api::FileSpan> part) { *got += part.ok(); });
    Settle();
  }
  EXPECT_GE(*got, 1);
  EXPECT_LT(*got, asked) << "all of it came with the first bytes";
  EXPECT_FALSE(Demanded()) << "of what is filled nobody is in a hurry";
}

TEST_F(MirrorBlobTest, WhatDoesNotBeginInTimeIsNoFailedRead) {
  OpenAll();
  clock_.now += seconds(5);
  Settle();
  EXPECT_TRUE(opened_);
  EXPECT_FALSE(parts_);
  EXPECT_EQ(telemetry_.read_errors.value(), 0u);
}

}  // namespace
}  // namespace sluice
