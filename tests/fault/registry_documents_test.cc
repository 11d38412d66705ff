// What a node asks registries for, for itself and as a home, against a registry that behaves as told.

#include "node/daemon/registry_documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <future>
#include <latch>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/peer_documents.h"
#include "p2p/recipe/sha256.h"
#include "tests/fault/fault_origin.h"
#include "tests/unit/index/store_fixture.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using p2p::FaultConnection;
using p2p::FaultOrigin;
using p2p::FaultRequest;
using Freshness = RegistryDocuments::Freshness;
using Question = api::PeerDocuments::Question;
using ::testing::Each;

constexpr char kRepository[] = "team/app";
const std::string kBody =
    R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]})";

class HandClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::steady_clock::now() + ahead.load(); }
  std::atomic<Duration> ahead{Duration(0)};
};

class RegistryDocumentsTest : public index::StoreTest {
 protected:
  void SetUp() override {
    OpenStore();
    digest_ = registry_.AddManifest(kRepository, "v1", "application/vnd.oci.image.index.v1+json", kBody);
    p2p::RegistryOptions options;
    options.retries_max = 0;
    client_ =
        std::make_unique<p2p::RegistryClient>(p2p::RegistryClient::Parts{clock_, io_, telemetry_}, options);
    documents_ = std::make_unique<RegistryDocuments>(clock_, io_, *client_, RegistryDocuments::kKeep);
    manifests_ = std::make_unique<ManifestCache>(temp_.path() + "/manifests");
  }
  void TearDown() override {
    client_->Stop();
    io_.Stop();
  }

  // "user" and "pass" for the registry.
  void UseCredentials() {
    p2p::RegistryOptions options;
    options.retries_max = 0;
    options.docker_config_path = temp_.path() + "/config.json";
    std::ofstream(options.docker_config_path)
        << R"({"auths":{")" << registry_.registry() << R"(":{"auth":"dXNlcjpwYXNz"}}})";
    client_->Stop();
    documents_.reset();
    client_ =
        std::make_unique<p2p::RegistryClient>(p2p::RegistryClient::Parts{clock_, io_, telemetry_}, options);
    documents_ = std::make_unique<RegistryDocuments>(clock_, io_, *client_, RegistryDocuments::kKeep);
  }
  BlobOrigin place() const { return {registry_.registry(), kRepository}; }
  std::string TagPath() const { return FaultOrigin::ManifestPath(kRepository, "v1"); }
  std::future<absl::StatusOr<RegistryDocuments::Document>> Ask(const std::string& name, Freshness freshness) {
    auto promise = std::make_shared<std::promise<absl::StatusOr<RegistryDocuments::Document>>>();
    documents_->Manifest(place(), name, freshness,
                         [promise](auto got) { promise->set_value(std::move(got)); });
    return promise->get_future();
  }
  absl::StatusOr<api::PeerDocument> AskHome(const Question& question,
                                            ImageDocuments::Tags tags = ImageDocuments::Tags::kFromHome,
                                            const std::string& allowed = "*/*") {
    lists_.push_back(*p2p::AllowList::Create(std::vector<std::string>{allowed}));
    homes_.push_back(std::make_unique<NodePeerDocuments>(
        *store_, *manifests_, NodePeerDocuments::Home{*documents_, lists_.back(), io_, tags}));
    std::promise<absl::StatusOr<api::PeerDocument>> promise;
    homes_.back()->AskRegistry(question, [&](auto got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  }

  HandClock clock_;
  AsioExecutor io_{"io", 2};
  FaultOrigin registry_;
  Digest digest_;
  std::unique_ptr<p2p::RegistryClient> client_;
  std::unique_ptr<RegistryDocuments> documents_;
  std::unique_ptr<ManifestCache> manifests_;
  std::list<p2p::AllowList> lists_;
  std::list<std::unique_ptr<NodePeerDocuments>> homes_;  // what they keep is written on the pool
};

TEST_F(RegistryDocumentsTest, ManyWhoWantTheSameAtOnceAreOneRequest) {
  std::latch all_asked(1);
  registry_.Script(TagPath(), {[&](const FaultRequest& request, FaultConnection& to) {
                     all_asked.wait();
                     registry_.ServeByTheRules(request, to);
                   }});
  std::vector<std::future<absl::StatusOr<RegistryDocuments::Document>>> asked;
  for (int i = 0; i < 64; ++i) asked.push_back(Ask("v1", Freshness::kNow));
  all_asked.count_down();
  for (auto& answer : asked) {
    const auto got = answer.get();
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ((*got)->body, kBody);
  }
  EXPECT_EQ(registry_.request_count(TagPath()), 1u);
}

TEST_F(RegistryDocumentsTest, WhatCameIsKeptForAMomentForThoseWhomThatWillDo) {
  ASSERT_TRUE(Ask("v1", Freshness::kNow).get().ok());
  EXPECT_TRUE(Ask("v1", Freshness::kLately).get().ok());
  EXPECT_EQ(registry_.request_count(TagPath()), 1u);
  EXPECT_TRUE(Ask("v1", Freshness::kNow).get().ok());
  EXPECT_EQ(registry_.request_count(TagPath()), 2u);
  clock_.ahead = RegistryDocuments::kKeep - 1s;
  EXPECT_TRUE(Ask("v1", Freshness::kLately).get().ok());
  EXPECT_EQ(registry_.request_count(TagPath()), 2u);
  clock_.ahead = RegistryDocuments::kKeep + 1s;
  EXPECT_TRUE(Ask("v1", Freshness::kLately).get().ok());
  EXPECT_EQ(registry_.request_count(TagPath()), 3u);
}

TEST_F(RegistryDocumentsTest, AFailureIsTheAnswerToAllWhoWaitAndToNobodyAfter) {
  std::latch all_asked(1);
  registry_.Script(TagPath(), {[&](const FaultRequest&, FaultConnection& to) {
                     all_asked.wait();
                     to.Send(500, {}, "");
                   }});
  auto first = Ask("v1", Freshness::kLately), second = Ask("v1", Freshness::kLately);
  all_asked.count_down();
  EXPECT_FALSE(first.get().ok());
  EXPECT_FALSE(second.get().ok());
  EXPECT_EQ(registry_.request_count(TagPath()), 1u);
  EXPECT_TRUE(Ask("v1", Freshness::kLately).get().ok());
}

TEST_F(RegistryDocumentsTest, WhatIsUnderWayIsBounded) {
  std::latch refused(1);
  std::vector<std::future<absl::StatusOr<RegistryDocuments::Document>>> asked;
  for (size_t i = 0; i <= RegistryDocuments::kFlightsMax; ++i) {
    const std::string tag = absl::StrCat("t", i);
    registry_.Always(FaultOrigin::ManifestPath(kRepository, tag),
                     [&](const FaultRequest&, FaultConnection& to) {
                       refused.wait();
                       to.Send(500, {}, "");
                     });
    asked.push_back(Ask(tag, Freshness::kNow));
  }
  EXPECT_EQ(asked.back().get().status().code(), absl::StatusCode::kResourceExhausted);
  refused.count_down();
  asked.pop_back();
  for (auto& answer : asked) EXPECT_FALSE(answer.get().ok());
}

TEST_F(RegistryDocumentsTest, StoppingEndsWhatIsWaitedFor) {
  registry_.Script(TagPath(), {[](const FaultRequest&, FaultConnection& to) { to.Stall(); }});
  auto asked = Ask("v1", Freshness::kNow);
  client_->Stop();
  EXPECT_EQ(asked.get().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Ask("v1", Freshness::kNow).get().status().code(), absl::StatusCode::kCancelled);
}

TEST_F(RegistryDocumentsTest, AHomeGivesWhatTheRegistryHasAndKeepsManifests) {
  const Digest blob = registry_.AddBlob(kRepository, "a recipe");
  using Kind = Question::Kind;
  EXPECT_EQ(AskHome({Kind::kManifest, place(), "v1"}).value_or(api::PeerDocument()).body, kBody);
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (!manifests_->Get({place(), "", digest_}).ok() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(manifests_->Get({place(), "", digest_}).ok());
  EXPECT_EQ(AskHome({Kind::kManifest, place(), digest_.ToString()}).value_or(api::PeerDocument()).body,
            kBody);
  EXPECT_EQ(registry_.request_count(FaultOrigin::ManifestPath(kRepository, digest_.ToString())), 0u)
      << "it is here";
  EXPECT_EQ(AskHome({Kind::kBlob, place(), blob.ToString()}).value_or(api::PeerDocument()).bytes(),
            "a recipe");
  // The registry has no list of referrers: that is an answer too, and asked for once.
  for (int i = 0; i < 2; ++i) {
    const auto list = AskHome({Kind::kReferrers, place(), digest_.ToString()});
    ASSERT_TRUE(list.ok()) << list.status();
    EXPECT_TRUE(p2p::ReferrersOfType(list->body, "x").ok());
  }
  EXPECT_EQ(registry_.request_count(absl::StrCat("/v2/", kRepository, "/referrers/", digest_.ToString())),
            1u);
  EXPECT_EQ(AskHome({Kind::kManifest, place(), "v2"}).status().code(), absl::StatusCode::kNotFound);
  // A stranger who guesses a digest can't tell what is nowhere from what is private.
  for (const Kind kind : {Kind::kManifest, Kind::kBlob}) {
    EXPECT_EQ(AskHome({kind, place(), p2p::Sha256::Of("nowhere").ToString()}).status().code(),
              absl::StatusCode::kPermissionDenied);
  }
}

// Others are sent on here by whoever gave it.
TEST_F(RegistryDocumentsTest, WhatAnotherNodeGaveIsGivenOnForAMoment) {
  const Digest digest = p2p::Sha256::Of("a bootstrap");
  const p2p::AllowList allowed = *p2p::AllowList::Create(std::vector<std::string>{"*/*"});
  const NodePeerDocuments::Home home{*documents_, allowed, io_, ImageDocuments::Tags::kFromHome};
  NodePeerDocuments unproven(*store_, *manifests_, home),
      proven(*store_, *manifests_, home, PeerTrust::kProven), nobody(*store_, *manifests_, std::nullopt);
  const Question question{Question::Kind::kBlob, place(), digest.ToString()};
  const auto code = [&](NodePeerDocuments& from) { return from.GotLately(question).status().code(); };
  EXPECT_EQ(code(unproven), absl::StatusCode::kNotFound);
  {
    const std::shared_ptr<const void> asks = documents_->AsksForBlob(place(), digest);
    const std::shared_ptr<const void> twice = documents_->AsksForBlob(place(), digest);
    EXPECT_EQ(code(unproven), absl::StatusCode::kUnavailable);
    EXPECT_EQ(code(nobody), absl::StatusCode::kNotFound);
  }
  EXPECT_EQ(code(unproven), absl::StatusCode::kNotFound);
  documents_->KeepBlob(place(), digest, {"a/b", "a bootstrap", digest, OriginAccess::kHearsay, true});
  for (NodePeerDocuments* from : {&unproven, &proven}) {
    const absl::StatusOr<api::PeerDocument> given = from->GotLately(question);
    ASSERT_TRUE(given.ok()) << given.status();
    EXPECT_EQ(given->bytes(), "a bootstrap");
    EXPECT_EQ(given->media_type, "a/b");
    EXPECT_TRUE(given->is_public);
  }
  EXPECT_EQ(code(nobody), absl::StatusCode::kNotFound);
  EXPECT_EQ(unproven.GotLately({Question::Kind::kBlob, {registry_.registry(), "other"}, digest.ToString()})
                .status()
                .code(),
            absl::StatusCode::kNotFound)
      << "it says nothing of other repositories";
  EXPECT_EQ(unproven.GotLately({Question::Kind::kBlob, place(), "sha256:12"}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(AskHome(question).value_or(api::PeerDocument()).bytes(), "a bootstrap") << "also as a home";
  clock_.ahead = RegistryDocuments::kKeep + 1s;
  EXPECT_EQ(code(unproven), absl::StatusCode::kNotFound);
  // Private, as the member that gave it said.
  documents_->KeepBlob(place(), digest, {"a/b", "a bootstrap", digest, OriginAccess::kUnknown, true});
  EXPECT_EQ(code(unproven), absl::StatusCode::kNotFound);
  const absl::StatusOr<api::PeerDocument> given = proven.GotLately(question);
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_FALSE(given->is_public);
}

TEST_F(RegistryDocumentsTest, AHomeGivesTablesAndOnlyThoseThatAreWhatIsSaid) {
  const std::string table = "a seek table";
  const Digest blob = registry_.AddBlob(kRepository, "frames and " + table);
  const auto ask = [&](const std::string& said, const std::string& size) {
    return AskHome({Question::Kind::kTable, place(), blob.ToString(),
                    absl::StrCat("11:12:", p2p::Sha256::Of(said).ToString()), size});
  };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ask(table, "23").value_or(api::PeerDocument()).body, table);
  EXPECT_EQ(registry_.request_count(FaultOrigin::BlobPath(kRepository, blob)), 1u);
  EXPECT_EQ(ask("another", "23").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ask(table, "22").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ask(table, "").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RegistryDocumentsTest, AHomeGivesTheTokenThatStrangersGetAndNoOther) {
  const Question question{Question::Kind::kToken, place(), ""};
  EXPECT_EQ(AskHome({Question::Kind::kToken, {registry_.registry(), "other"}, ""}).status().code(),
            absl::StatusCode::kNotFound)
      << "strangers need none";
  registry_.Always("/token", p2p::fault::Status(200, {}, R"({"token":"t","expires_in":300})"));
  registry_.RequireAuthorization("Bearer t",
                                 "Bearer realm=\"" + registry_.Url("/token") + "\",service=\"s\"");
  for (int i = 0; i < 2; ++i) {
    const absl::StatusOr<api::PeerDocument> given = AskHome(question);
    ASSERT_TRUE(given.ok()) << given.status();
    const absl::StatusOr<p2p::AccessToken> token = p2p::ParseTokenAnswer(given->body);
    ASSERT_TRUE(token.ok()) << token.status();
    EXPECT_EQ(token->value, "t");
    EXPECT_LE(token->lifetime, 300s);
  }
  EXPECT_EQ(registry_.request_count("/token"), 1u);
  EXPECT_EQ(AskHome(question, ImageDocuments::Tags::kFromHome, "elsewhere.example/*").status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(RegistryDocumentsTest, AHomeAsksForNothingThatItMayNot) {
  const Question tag{Question::Kind::kManifest, place(), "v1"};
  EXPECT_EQ(AskHome(tag, ImageDocuments::Tags::kFromRegistry).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(AskHome(tag, ImageDocuments::Tags::kFromHome, "elsewhere.example/*").status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(registry_.request_count(TagPath()), 0u);
  NodePeerDocuments nobody(*store_, *manifests_, std::nullopt);
  absl::Status refused;
  nobody.AskRegistry(tag, [&](auto got) { refused = got.status(); });
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(RegistryDocumentsTest, WhatAHomeGetsWithItsOwnCredentialsItGivesToNobody) {
  const Digest blob = registry_.AddBlob(kRepository, "private");
  UseCredentials();
  registry_.RequireAuthorization("Basic dXNlcjpwYXNz", "Basic realm=\"x\"");
  ASSERT_TRUE(Ask("v1", Freshness::kNow).get().ok()) << "this node may";
  using Kind = Question::Kind;
  for (const Question& question :
       {Question{Kind::kManifest, place(), "v1"}, Question{Kind::kManifest, place(), digest_.ToString()},
        Question{Kind::kBlob, place(), blob.ToString()}, Question{Kind::kManifest, place(), "v1"}}) {
    EXPECT_EQ(AskHome(question).status().code(), absl::StatusCode::kPermissionDenied) << question.reference;
  }
}

// Nobody learns whether it exists.
TEST_F(RegistryDocumentsTest, WhatTheRegistryDoesNotGiveToEverybodyEachAsksForItself) {
  registry_.RequireAuthorization("Basic dXNlcjpwYXNz", "Basic realm=\"x\"");
  for (const std::string name : {"v1", "v2"}) {
    EXPECT_EQ(AskHome({Question::Kind::kManifest, place(), name}).status().code(),
              absl::StatusCode::kPermissionDenied);
  }
}

// A registry whose repository is for who has the password, and a node that has it.
class SecretDocumentsTest : public RegistryDocumentsTest {
 protected:
  void SetUp() override {
    RegistryDocumentsTest::SetUp();
    registry_.RequireAuthorization("Basic dXNlcjpwYXNz", "Basic realm=\"x\"");
    registry_.Always(ReferrersPath(digest_), [this](const FaultRequest& request, FaultConnection& to) {
      if (request.Header("authorization") != "Basic dXNlcjpwYXNz")
        return to.Send(401, {{"WWW-Authenticate", "Basic realm=\"x\""}}, "");
      to.Send(200, {{"Content-Type", "application/vnd.oci.image.index.v1+json"}}, kBody);
    });
  }
  static std::string ReferrersPath(const Digest& digest) {
    return absl::StrCat("/v2/", kRepository, "/referrers/", digest.ToString());
  }
  // Each of something that is there, and of what is not.
  std::vector<std::pair<Question, Question>> HereAndNowhere() const {
    using Kind = Question::Kind;
    const std::string nowhere = p2p::Sha256::Of("nowhere").ToString();
    return {{{Kind::kManifest, place(), "v1"}, {Kind::kManifest, place(), "v2"}},
            {{Kind::kManifest, place(), digest_.ToString()}, {Kind::kManifest, place(), nowhere}},
            {{Kind::kReferrers, place(), digest_.ToString()}, {Kind::kReferrers, place(), nowhere}},
            {{Kind::kBlob, place(), blob_.ToString()}, {Kind::kBlob, place(), nowhere}}};
  }
  size_t RequestCount() const {
    size_t count = registry_.request_count(TagPath());
    for (const std::string& path :
         {FaultOrigin::ManifestPath(kRepository, "v2"), FaultOrigin::BlobPath(kRepository, blob_),
          FaultOrigin::ManifestPath(kRepository, digest_.ToString()), ReferrersPath(digest_),
          ReferrersPath(p2p::Sha256::Of("nowhere"))})
      count += registry_.request_count(path);
    return count;
  }

  const Digest blob_ = registry_.AddBlob(kRepository, "private");
};

TEST_F(SecretDocumentsTest, AStrangerCannotTellWhatIsThereFromWhatIsNowhere) {
  for (const auto& [here, nowhere] : HereAndNowhere()) {
    for (const Question* question : {&here, &nowhere}) {
      UseCredentials();  // a node that knows nothing yet
      EXPECT_EQ(AskHome(*question).status().code(), absl::StatusCode::kPermissionDenied)
          << question->reference;
    }
  }
}

TEST_F(SecretDocumentsTest, OfWhatIsKnownToTakeCredentialsNothingIsLookedAtForAStranger) {
  UseCredentials();
  ASSERT_TRUE(Ask("v1", Freshness::kNow).get().ok()) << "it is kept for a moment";
  const size_t asked = RequestCount();
  for (const auto& [here, nowhere] : HereAndNowhere()) {
    EXPECT_EQ(AskHome(here).status(), AskHome(nowhere).status());
    EXPECT_EQ(AskHome(here).status().code(), absl::StatusCode::kPermissionDenied) << here.reference;
  }
  EXPECT_EQ(RequestCount(), asked);
  EXPECT_EQ(Ask("v1", Freshness::kLately).get().value()->body, kBody) << "this node may";
}

// What says that there are none says it to those who have the password.
TEST_F(SecretDocumentsTest, AListOfReferrersThatIsNotThereIsNoMorePublicThanOneThatIs) {
  UseCredentials();
  std::promise<absl::StatusOr<RegistryDocuments::Document>> promise;
  documents_->Referrers(place(), p2p::Sha256::Of("nowhere"), Freshness::kNow,
                        [&](auto got) { promise.set_value(std::move(got)); });
  const auto list = promise.get_future().get();
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ((*list)->access, OriginAccess::kCredentials);
}

}  // namespace
}  // namespace sluice
