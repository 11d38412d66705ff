#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "node/daemon/mirror.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const BlobOrigin kOrigin{"registry.example", "app"};

ManifestCache::Kept ManifestOf(const std::string& body, OriginAccess access = OriginAccess::kPublic) {
  return {{"application/json", body, p2p::Sha256::Of(body), access}, 1000};
}

class GivenManifestsTest : public ::testing::Test {
 protected:
  bool Put(const ManifestCache::Kept& manifest) { return given_.Put(kOrigin, manifest, now_); }
  bool Has(const std::string& body, const BlobOrigin& origin = kOrigin) {
    return given_.Find(origin, p2p::Sha256::Of(body), now_).has_value();
  }

  GivenManifests given_;
  Instant now_ = Instant() + seconds(100);
};

TEST_F(GivenManifestsTest, WhatWasGivenIsHeldForItsRepositoryAlone) {
  EXPECT_TRUE(Put(ManifestOf("a")));
  EXPECT_FALSE(Put(ManifestOf("a")));
  EXPECT_EQ(given_.Find(kOrigin, p2p::Sha256::Of("a"), now_)->manifest.manifest.body, "a");
  EXPECT_FALSE(Has("b"));
  EXPECT_FALSE(Has("a", {"registry.example", "other"}));
  EXPECT_FALSE(Has("a", {"other.example", "app"}));
}

// However often it is given meanwhile, and by whoever was still being answered then: what becomes of the file
// is to be seen.
TEST_F(GivenManifestsTest, ItIsForgottenSoonAfterItWasRead) {
  const Instant read_at = now_;
  EXPECT_TRUE(Put(ManifestOf("a")));
  now_ += GivenManifests::kAgeMax - milliseconds(1);
  EXPECT_EQ(given_.Find(kOrigin, p2p::Sha256::Of("a"), now_)->read_at, read_at);
  EXPECT_FALSE(given_.Put(kOrigin, ManifestOf("a"), read_at));
  EXPECT_TRUE(Has("a"));
  now_ += milliseconds(1);
  EXPECT_FALSE(given_.Put(kOrigin, ManifestOf("a"), read_at));
  EXPECT_FALSE(Has("a"));
  EXPECT_TRUE(Put(ManifestOf("a"))) << "it was read again";
  EXPECT_TRUE(Has("a"));
}

TEST_F(GivenManifestsTest, WhatIsFoundOutAnewCountsAtOnce) {
  EXPECT_TRUE(Put(ManifestOf("a")));
  EXPECT_TRUE(Put(ManifestOf("a", OriginAccess::kCredentials)));
  EXPECT_EQ(given_.Find(kOrigin, p2p::Sha256::Of("a"), now_)->manifest.manifest.access,
            OriginAccess::kCredentials);
  ManifestCache::Kept later = ManifestOf("a");
  later.public_at_ms = 2000;
  EXPECT_TRUE(Put(later));
  EXPECT_EQ(given_.Find(kOrigin, p2p::Sha256::Of("a"), now_)->manifest.public_at_ms, 2000);
}

TEST_F(GivenManifestsTest, BytesAndEntriesAreBounded) {
  const auto body = [](size_t number, size_t bytes) {
    return std::string(bytes, ' ') + std::to_string(number);
  };
  for (const size_t bytes : {size_t{0}, size_t{1} << 20}) {
    const size_t many = bytes == 0 ? GivenManifests::kEntriesMax + 1 : GivenManifests::kBytesMax / bytes + 1;
    for (size_t i = 0; i < many; ++i) Put(ManifestOf(body(i, bytes)));
    size_t held = 0;
    for (size_t i = 0; i < many; ++i) held += Has(body(i, bytes)) ? 1 : 0;
    EXPECT_LT(held, many) << bytes;
    EXPECT_TRUE(Put(ManifestOf("next")));
    EXPECT_TRUE(Has("next"));
  }
}

}  // namespace
}  // namespace sluice
