// A recipe asked of who asks this node for the blob: one that gives it, lies, lacks it, is silent, or is no
// member.

#include "node/daemon/member_recipes.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/asio_executor.h"
#include "p2p/cluster/assignment.h"
#include "p2p/recipe/recipe.h"
#include "tests/fault/fault_origin.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using p2p::FaultBehaviour;
using p2p::FaultConnection;
using p2p::FaultOrigin;
using p2p::FaultRequest;

class HandClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::steady_clock::now() + ahead; }
  Duration ahead{};
};

class Recipes final : public RecipeStore {
 public:
  absl::StatusOr<std::string> GetRecipe(const BlobKey& blob) override {
    const std::lock_guard lock(mutex_);
    const auto found = recipes_.find(blob.FileName());
    if (found == recipes_.end()) return absl::NotFoundError("none");
    return found->second;
  }
  absl::Status PutRecipe(const BlobKey& blob, std::string_view recipe) override {
    const std::lock_guard lock(mutex_);
    recipes_[blob.FileName()] = std::string(recipe);
    return absl::OkStatus();
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> recipes_;  // guarded by mutex_
};

p2p::Recipe RecipeOf(const std::string& bytes) {
  p2p::RecipeBuilder builder(kChunkSizeMin);
  builder.Update(std::as_bytes(std::span(bytes)));
  return *builder.Finish();
}

class MemberRecipesTest : public ::testing::Test {
 protected:
  MemberRecipesTest() {
    p2p::Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = {"self", {{"127.0.0.1", 1}}, "", p2p::kProtocolMajor, 5};
    members_ = std::make_unique<p2p::Members>(std::move(options));
    members_->Start();
    const p2p::HostPort at{"127.0.0.1", asker_.port()};
    members_->Change([&](p2p::MemberTable& table, Instant now) {
      table.HeardFrom({"asker", {at}, "", p2p::kProtocolMajor, 5}, at, now);
    });
    p2p::PeerClientOptions client;
    client.silence_max = 200ms;
    client_ = std::make_unique<p2p::PeerClient>(telemetry_, client);
    asked_ = std::make_shared<MemberRecipes>(
        MemberRecipes::Parts{clock_, *members_, *client_, recipes_, io_,
                             [this](const Blob& blob) { return recipes_.GetRecipe(blob.key()).ok(); }});
  }
  ~MemberRecipesTest() override {
    client_->Stop();
    io_.Stop();
    members_->Stop();
  }

  std::future<bool> Ask(const std::string& asker = "asker") {
    auto told = std::make_shared<std::promise<bool>>();
    std::future<bool> provable = told->get_future();
    asked_->Await(blob_, asker, [told](bool result) { told->set_value(result); });
    return provable;
  }
  static FaultBehaviour Gives(std::string body) {
    return p2p::fault::Status(200, {{"Sluice-Node", "other"}, {"Content-Type", "application/octet-stream"}},
                              std::move(body));
  }

  HandClock clock_;
  AsioExecutor io_{"io", 2};
  Telemetry telemetry_;
  FaultOrigin asker_;
  Recipes recipes_;
  const p2p::Recipe recipe_ = RecipeOf(std::string(5 * kChunkSizeMin, 'x'));
  const std::shared_ptr<Blob> blob_ = std::make_shared<Blob>(BlobSpec{.digest = recipe_.blob,
                                                                      .size = recipe_.size,
                                                                      .chunk_size = recipe_.chunk_size,
                                                                      .root = recipe_.root,
                                                                      .origins = {{"r.example", "app"}}});
  const std::string path_ = absl::StrCat("/sluice/v1/recipes/", recipe_.blob.ToString());
  std::unique_ptr<p2p::Members> members_;
  std::unique_ptr<p2p::PeerClient> client_;
  std::shared_ptr<MemberRecipes> asked_;
};

TEST_F(MemberRecipesTest, WhoAsksGivesItOnceForAllWhoWait) {
  std::promise<void> go;
  asker_.Always(path_, [&, opened = go.get_future().share(), give = Gives(recipe_.EncodeTorrent())](
                           const FaultRequest& request, FaultConnection& to) {
    opened.wait();
    give(request, to);
  });
  std::vector<std::future<bool>> waiting;
  for (int i = 0; i < 5; ++i) waiting.push_back(Ask());
  for (auto& each : waiting) EXPECT_EQ(each.wait_for(0s), std::future_status::timeout);
  go.set_value();
  for (auto& each : waiting) EXPECT_TRUE(each.get());
  EXPECT_EQ(asker_.request_count(path_), 1u);
  EXPECT_EQ(asker_.requests(path_).front().query, absl::StrCat("root=", recipe_.root.ToString()));
  // Now it is here.
  std::future<bool> again = Ask("nobody");
  ASSERT_EQ(again.wait_for(0s), std::future_status::ready) << "told in the call";
  EXPECT_TRUE(again.get());
  EXPECT_EQ(asker_.request_count(path_), 1u);
}

TEST_F(MemberRecipesTest, WhatIsNoRecipeOfThatRootIsNotTakenAndNobodyIsAskedForAWhile) {
  const FaultBehaviour kCases[] = {Gives("nonsense"),
                                   Gives(RecipeOf(std::string(5 * kChunkSizeMin, 'y')).EncodeTorrent()),
                                   Gives(""), p2p::fault::Status(404, {{"Sluice-Node", "other"}}, "{}"),
                                   [](const FaultRequest&, FaultConnection& to) { to.Stall(); }};
  size_t asked = 0;
  for (const FaultBehaviour& behaviour : kCases) {
    asker_.Always(path_, behaviour);
    EXPECT_FALSE(Ask().get());
    const size_t now = asker_.request_count(path_);
    EXPECT_GT(now, asked);
    EXPECT_FALSE(Ask().get());
    EXPECT_EQ(asker_.request_count(path_), now) << "asked again at once";
    asked = now;
    clock_.ahead += MemberRecipes::kRefused;
  }
  EXPECT_FALSE(recipes_.GetRecipe(blob_->key()).ok());
  asker_.Always(path_, Gives(recipe_.EncodeTorrent()));
  EXPECT_TRUE(Ask().get());
}

TEST_F(MemberRecipesTest, WhoIsNoMemberIsNotAskedNorForWhatHasNoRoot) {
  EXPECT_FALSE(Ask("stranger").get());
  EXPECT_FALSE(Ask("self").get());
  EXPECT_FALSE(Ask("").get());
  BlobSpec unsealed = *blob_->facts();
  unsealed.root.reset();
  auto told = std::make_shared<std::promise<bool>>();
  EXPECT_TRUE(
      asked_->Await(std::make_shared<Blob>(unsealed), "asker", [told](bool is) { told->set_value(is); }));
  EXPECT_FALSE(told->get_future().get());
  EXPECT_EQ(asker_.connection_count(), 0u);
}

TEST_F(MemberRecipesTest, WhoWaitsIsToldWhenTheClientStops) {
  asker_.Always(path_, [](const FaultRequest&, FaultConnection& to) { to.Stall(); });
  std::future<bool> waiting = Ask();
  client_->Stop();
  EXPECT_FALSE(waiting.get());
}

}  // namespace
}  // namespace sluice
