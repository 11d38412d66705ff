// A node as the home of chunks that lie in a real docker-registry 2.8.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/blob_claim.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/home_node.h"
#include "tests/integration/registry_fixture.h"

namespace sluice {
namespace {

using ::testing::SizeIs;

constexpr uint32_t kChunk = kChunkSizeDefault;
constexpr uint32_t kChunks = 16;
constexpr char kRepository[] = "team/app";

class HomeRegistryTest : public ::testing::Test, protected HomeNode {
 protected:
  void SetUp() override {
    uint32_t x = 1;
    for (char& c : bytes_) c = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
    Start();
    digest_ = p2p::Sha256::Of(bytes_);
    const absl::Status pushed = registry_->PushBlob({origin_.registry(), kRepository}, digest_,
                                                    p2p::HttpBody::FromString(bytes_), nullptr);
    ASSERT_TRUE(pushed.ok()) << pushed;
    asked_before_ = Requests();
  }
  void TearDown() override { Stop(); }

  // That the registry answered well, since then.
  uint64_t Requests() const { return telemetry_.origin_requests[2].value(); }
  std::unique_ptr<RawAsker> Begin(uint32_t chunk, uint64_t size, const std::string& from = "a") {
    const BlobSpec spec{.digest = digest_, .size = size, .chunk_size = kChunk, .root = {}, .origins = {}};
    const Asking asking{
        .claim = FormatBlobClaim(spec, {origin_.registry(), kRepository}, BlobClaim::Access::kPublic),
        .range = absl::StrCat("bytes=", uint64_t{chunk} * kChunk, "-", uint64_t{chunk + 1} * kChunk - 1),
        .from = from};
    const std::string path =
        absl::StrCat("/v2/", kRepository, "/blobs/", digest_.ToString(), "?ns=", origin_.registry());
    return std::make_unique<RawAsker>(port(), path, asking);
  }
  // As an asker does that is refused: it comes again.
  Answer Get(uint32_t chunk) {
    Answer answer;
    do {
      answer = Begin(chunk, bytes_.size())->Read();
    } while (answer.status == 503);
    return answer;
  }

  p2p::RegistryFixture origin_;
  std::string bytes_ = std::string(size_t{kChunk} * kChunks, '\0');
  Digest digest_;
  uint64_t asked_before_ = 0;
};

TEST_F(HomeRegistryTest, TwentyAskersOfAColdChunkCostTheRegistryOneRequest) {
  std::vector<std::unique_ptr<RawAsker>> askers;
  for (int i = 0; i < 20; ++i) askers.push_back(Begin(3, bytes_.size(), absl::StrCat("asker", i)));
  for (const auto& asker : askers) {
    Answer answer = asker->Read();
    if (answer.status == 503) answer = Get(3);
    ASSERT_EQ(answer.status, 206) << answer.body;
    EXPECT_TRUE(answer.body == bytes_.substr(size_t{3} * kChunk, kChunk));
  }
  EXPECT_EQ(Requests() - asked_before_, 1u);
}

TEST_F(HomeRegistryTest, EightAskersThatWantTheWholeBlobCostTheRegistryEachByteOnce) {
  const uint64_t bytes_before = telemetry_.origin_blob_bytes.value();
  std::vector<std::future<std::string>> askers;
  for (uint32_t i = 0; i < 8; ++i) {
    askers.push_back(std::async(std::launch::async, [this, i] {
      std::string whole(bytes_.size(), '\0');
      for (uint32_t step = 0; step < kChunks; ++step) {
        const uint32_t chunk = (step + 2 * i) % kChunks;
        const Answer answer = Get(chunk);
        EXPECT_EQ(answer.status, 206) << answer.body;
        whole.replace(size_t{chunk} * kChunk, answer.body.size(), answer.body);
      }
      return whole;
    }));
  }
  for (auto& asker : askers) EXPECT_TRUE(asker.get() == bytes_);
  EXPECT_EQ(Requests() - asked_before_, kChunks);
  EXPECT_EQ(telemetry_.origin_blob_bytes.value() - bytes_before, bytes_.size());
}

TEST_F(HomeRegistryTest, AWrongSizeIsContradictedByTheRegistry) {
  EXPECT_EQ(Begin(0, bytes_.size() + kChunk)->Read().status, 409);
  EXPECT_EQ(Begin(0, bytes_.size())->Read().status, 206);
}

}  // namespace
}  // namespace sluice
