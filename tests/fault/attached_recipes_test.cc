// The recipes that a registry has attached to an image, from one that behaves as told.

#include "node/daemon/attached_recipes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/daemon/asio_executor.h"
#include "p2p/recipe/recipe.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/fault_origin.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using p2p::FaultConnection;
using p2p::FaultOrigin;
using p2p::FaultRequest;
using p2p::Sha256;

constexpr char kRepository[] = "team/app";
constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

class AttachedRecipesTest : public ::testing::Test {
 protected:
  AttachedRecipesTest() {
    p2p::RecipeBuilder builder(kChunkSizeMin);
    builder.Update(std::vector<std::byte>(3 * kChunkSizeMin, std::byte{7}));
    const p2p::Recipe recipe = *builder.Finish();
    torrent_ = recipe.EncodeTorrent();
    spec_ = {recipe.blob, recipe.size, recipe.chunk_size, recipe.root, {{registry_.registry(), kRepository}}};
    p2p::RegistryOptions options;
    options.retries_max = 0;
    client_ =
        std::make_unique<p2p::RegistryClient>(p2p::RegistryClient::Parts{clock_, io_, telemetry_}, options);
    documents_ = std::make_unique<RegistryDocuments>(clock_, io_, *client_, Duration(0));
    images_ =
        std::make_unique<ImageDocuments>(*documents_, nullptr, ImageDocuments::Tags::kFromRegistry, nullptr);
  }
  void TearDown() override {
    client_->Stop();
    io_.Stop();
  }

  // An artifact whose only layer is said to be the blob's recipe.
  std::string Attach(const std::string& bytes) {
    const Digest layer = registry_.AddBlob(kRepository, bytes);
    const std::string type(p2p::media_type::kRecipeArtifact), of_blob(p2p::annotation::kRecipeBlob);
    const std::string body = absl::StrCat(
        R"({"schemaVersion":2,"mediaType":")", kManifestType, R"(","artifactType":")", type,
        R"(","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":")",
        Sha256::Of("{}").ToString(), R"(","size":2},"layers":[{"mediaType":"application/x-bittorrent",)",
        R"("digest":")", layer.ToString(), R"(","size":)", bytes.size(), R"(,"annotations":{")", of_blob,
        R"(":")", spec_.digest.ToString(), R"("}}]})");
    const Digest artifact = registry_.AddManifest(kRepository, "", kManifestType, body);
    referrers_.push_back(absl::StrCat(R"({"mediaType":")", kManifestType, R"(","digest":")",
                                      artifact.ToString(), R"(","size":)", body.size(),
                                      R"(,"artifactType":")", type, R"("})"));
    registry_.Always(ReferrersPath(),
                     p2p::fault::Status(200, {{"Content-Type", "application/vnd.oci.image.index.v1+json"}},
                                        absl::StrCat(R"({"schemaVersion":2,"manifests":[)",
                                                     absl::StrJoin(referrers_, ","), "]}")));
    return FaultOrigin::ManifestPath(kRepository, artifact.ToString());
  }
  std::string ReferrersPath() const {
    return absl::StrCat("/v2/", kRepository, "/referrers/", image_.ToString());
  }
  AttachedRecipes Listed() { return {*images_, {registry_.registry(), kRepository}, image_}; }

  SteadyClock clock_;
  AsioExecutor io_{"io", 2};
  Telemetry telemetry_;
  FaultOrigin registry_;
  const Digest image_ = Sha256::Of("an image's manifest");
  std::string torrent_;
  BlobSpec spec_;
  std::vector<std::string> referrers_;
  std::unique_ptr<p2p::RegistryClient> client_;
  std::unique_ptr<RegistryDocuments> documents_;
  std::unique_ptr<ImageDocuments> images_;
};

TEST_F(AttachedRecipesTest, AreListedWhileSomethingElseIsWaitedFor) {
  const std::string artifact = Attach(torrent_);
  AttachedRecipes recipes = Listed();
  for (const Instant end = clock_.Now() + 60s; registry_.request_count(artifact) == 0;) {
    ASSERT_LT(clock_.Now(), end) << "nothing is asked for";
    std::this_thread::yield();
  }
  const std::vector<absl::StatusOr<std::string>> fetched = recipes.Fetch({&spec_, 1});
  ASSERT_TRUE(fetched.at(0).ok()) << fetched[0].status();
  EXPECT_EQ(*fetched[0], torrent_);
  EXPECT_EQ(recipes.round_trips(), 3u);
  EXPECT_EQ(registry_.request_count(ReferrersPath()), 1u);
}

// Anybody who may push can attach something.
TEST_F(AttachedRecipesTest, ABadOneDoesNotStandInTheWayOfAGoodOne) {
  const std::string unreadable = Attach("first");
  registry_.Always(unreadable, p2p::fault::Status(500));
  Attach("no recipe");
  Attach(torrent_);
  AttachedRecipes recipes = Listed();
  const std::vector<absl::StatusOr<std::string>> fetched = recipes.Fetch({&spec_, 1});
  ASSERT_TRUE(fetched.at(0).ok()) << fetched[0].status();
  EXPECT_EQ(*fetched[0], torrent_);
}

TEST_F(AttachedRecipesTest, WhereNothingCanBeListedEachIsToldWhy) {
  registry_.Always(ReferrersPath(), p2p::fault::Status(503));
  AttachedRecipes recipes = Listed();
  const std::vector<BlobSpec> both(2, spec_);
  for (const absl::StatusOr<std::string>& fetched : recipes.Fetch(both))
    EXPECT_TRUE(absl::IsUnavailable(fetched.status())) << fetched.status();
}

TEST_F(AttachedRecipesTest, WhoIsCancelledIsToldSoWhileTheRegistryIsSilent) {
  const std::string artifact = Attach(torrent_);
  const auto gone = std::make_shared<std::latch>(1);  // it may be asked when all this is over
  registry_.Script(artifact, {[this, gone](const FaultRequest& request, FaultConnection& to) {
                     gone->wait();
                     registry_.ServeByTheRules(request, to);
                   }});
  AttachedRecipes recipes = Listed();
  const std::atomic<bool> cancelled{true};
  EXPECT_TRUE(absl::IsCancelled(recipes.Fetch({&spec_, 1}, cancelled).at(0).status()));
  EXPECT_EQ(recipes.round_trips(), 0u);
  gone->count_down();
}

TEST_F(AttachedRecipesTest, WhoWantsThemNoMoreGoesWhileTheRegistryIsSilent) {
  const std::string artifact = Attach(torrent_);
  const auto gone = std::make_shared<std::latch>(1);  // it may be asked when all this is over
  registry_.Script(artifact, {[this, gone](const FaultRequest& request, FaultConnection& to) {
                     gone->wait();
                     registry_.ServeByTheRules(request, to);
                   }});
  { const AttachedRecipes recipes = Listed(); }
  gone->count_down();
  AttachedRecipes again = Listed();
  EXPECT_TRUE(again.Fetch({&spec_, 1}).at(0).ok());
}

}  // namespace
}  // namespace sluice
