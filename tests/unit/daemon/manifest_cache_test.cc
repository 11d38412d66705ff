#include "node/daemon/manifest_cache.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

class ManifestCacheTest : public ::testing::Test {
 protected:
  ManifestCacheTest() {
    char folder[] = "/tmp/sluice-manifests-XXXXXX";
    folder_ = mkdtemp(folder);
  }
  ~ManifestCacheTest() override { std::filesystem::remove_all(folder_); }

  static p2p::ImageReference Reference(const std::string& text) { return *p2p::ImageReference::Parse(text); }
  static p2p::FetchedManifest Manifest(const std::string& body) {
    return {"application/vnd.oci.image.manifest.v1+json", body, p2p::Sha256::Of(body)};
  }

  std::string folder_;
};

TEST_F(ManifestCacheTest, AnotherDaemonFindsWhatWasPut) {
  const p2p::ImageReference app = Reference("registry.example/team/app:v1");
  ASSERT_TRUE(ManifestCache(folder_ + "/made").Put(app, Manifest("{\"one\": 1}")).ok());
  const ManifestCache cache(folder_ + "/made");
  const absl::StatusOr<p2p::FetchedManifest> found = cache.Get(app);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->body, "{\"one\": 1}");
  EXPECT_EQ(found->media_type, "application/vnd.oci.image.manifest.v1+json");
  EXPECT_EQ(found->digest, p2p::Sha256::Of("{\"one\": 1}"));
  EXPECT_EQ(cache.Get(Reference("registry.example/team/app:v2")).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ManifestCacheTest, WhatAMemberGaveIsAsOldAsItSaid) {
  ManifestCache cache(folder_);
  const p2p::ImageReference app = Reference("registry.example/team/app:v1");
  p2p::FetchedManifest manifest = Manifest("{}");
  manifest.access = OriginAccess::kHearsay;
  manifest.public_age = std::chrono::hours(30);
  ASSERT_TRUE(cache.Put(app, manifest).ok());
  const absl::StatusOr<p2p::FetchedManifest> found = cache.Get(app);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_GE(found->public_age, std::chrono::hours(30));
  EXPECT_LT(found->public_age, std::chrono::hours(31));
  manifest.public_age = Duration();
  ASSERT_TRUE(cache.Put(app, manifest).ok());
  EXPECT_LT(cache.Get(app)->public_age, std::chrono::hours(1));
}

TEST_F(ManifestCacheTest, TheLastOneCounts) {
  ManifestCache cache(folder_);
  const p2p::ImageReference app = Reference("registry.example/team/app:v1");
  ASSERT_TRUE(cache.Put(app, Manifest("old")).ok());
  ASSERT_TRUE(cache.Put(app, Manifest("new")).ok());
  EXPECT_EQ(cache.Get(app)->body, "new");
}

TEST_F(ManifestCacheTest, DamagedOnesAreNotTaken) {
  ManifestCache cache(folder_);
  const p2p::ImageReference app = Reference("registry.example/team/app:v1");
  ASSERT_TRUE(cache.Put(app, Manifest("the body")).ok());
  const std::filesystem::path file = std::filesystem::directory_iterator(folder_)->path();
  std::string text;
  std::getline(std::ifstream(file), text);
  text.replace(text.find("the body"), 8, "bad body");
  std::ofstream(file) << text;
  EXPECT_EQ(cache.Get(app).status().code(), absl::StatusCode::kDataLoss);
  std::ofstream(file) << "no JSON";
  EXPECT_EQ(cache.Get(app).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ManifestCacheTest, ACopyThatWasPutBackIsNotTaken) {
  ManifestCache cache(folder_);
  const p2p::ImageReference app = Reference("registry.example/team/app:v1");
  ASSERT_TRUE(cache.Put(app, Manifest("the body")).ok());
  const std::filesystem::path file = std::filesystem::directory_iterator(folder_)->path();
  std::filesystem::copy_file(file, file.string() + ".copy");
  std::filesystem::rename(file.string() + ".copy", file);
  EXPECT_EQ(cache.Get(app).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(cache.Put(app, Manifest("the body")).ok());
  EXPECT_TRUE(cache.Get(app).ok());
}

TEST_F(ManifestCacheTest, KeepsABoundedNumber) {
  ManifestCache cache(folder_);
  for (size_t i = 0; i < ManifestCache::kManifestsMax + 3; ++i) {
    ASSERT_TRUE(
        cache.Put(Reference("registry.example/team/app:v" + std::to_string(i)), Manifest("body")).ok());
  }
  const auto files = std::filesystem::directory_iterator(folder_);
  EXPECT_EQ(std::distance(begin(files), end(files)), static_cast<long>(ManifestCache::kManifestsMax));
}

}  // namespace
}  // namespace sluice
