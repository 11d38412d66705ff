// What a node may pull by its own right, what it shows of that to others, and by whose right it asks for
// them.

#include "p2p/registry/pull_rights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <future>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "p2p/registry/pull_grant.h"
#include "p2p/registry/registry_client.h"
#include "tests/fault/skipping_time.h"
#include "tests/fault/token_origin.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Strangers = TokenOrigin::Strangers;
using Tokens = TokenOrigin::Tokens;

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kBody[] = R"({"schemaVersion":2})";

struct ReadOutcome {
  absl::Status status;
  std::string bytes;
  OriginAccess access = OriginAccess::kUnknown;
};

class PullRightsTest : public ::testing::Test {
 protected:
  PullRightsTest() {
    std::string directory = (std::filesystem::temp_directory_path() / "sluice-rights-XXXXXX").string();
    directory_ = ::mkdtemp(directory.data());
    options_.retries_max = 1;
    registry_.AddManifest("v1", kManifestType, kBody);
    digest_ = registry_.AddBlob(blob_);
  }
  ~PullRightsTest() override {
    client_.reset();
    std::filesystem::remove_all(directory_);
  }

  RegistryClient& client() {
    if (!client_) client_.emplace(RegistryClient::Parts{time_, time_, telemetry_}, options_);
    return *client_;
  }
  void LogIn(const std::string& password = TokenOrigin::kPassword) {
    options_.docker_config_path = directory_ / "config.json";
    registry_.WriteDockerConfig(options_.docker_config_path, password);
  }
  Grant Given(const std::string& password) {
    return client().LogIn(registry_.place().registry, "user", Secret(password));
  }
  absl::StatusOr<PullRight> Prove(const std::string& path = "/manifests/v1") {
    std::promise<absl::StatusOr<PullRight>> promise;
    client().rights().Prove(registry_.place(), path, [&](auto got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  }
  absl::StatusOr<std::string> Renew(const std::string& refused) {
    std::promise<absl::StatusOr<std::string>> promise;
    client().rights().Renew(registry_.place(), refused, [&](auto got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  }
  ReadOutcome Read(const Grant& grant) {
    std::promise<absl::Status> done;
    ReadOutcome outcome;
    client().ReadBlobRange(
        registry_.place(), digest_, blob_.size(), {0, 100}, FetchClass::kDemand, time_.Now() + 30s,
        [&](OriginAccess access) { outcome.access = access; },
        [&](std::span<const std::byte> bytes) {
          outcome.bytes.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        },
        [&](absl::Status status) { done.set_value(std::move(status)); }, grant);
    outcome.status = done.get_future().get();
    return outcome;
  }
  static std::string ManifestPath() { return FaultOrigin::ManifestPath(TokenOrigin::kRepository, "v1"); }
  std::string BlobPath() const { return FaultOrigin::BlobPath(TokenOrigin::kRepository, digest_); }

  TokenOrigin registry_;
  const std::string blob_ = std::string(1000, 'b');
  Digest digest_;
  SkippingTime time_;
  Telemetry telemetry_;
  RegistryOptions options_;
  std::filesystem::path directory_;
  std::optional<RegistryClient> client_;
};

// --------------------------------------------------------------------------------- this node's own right

TEST_F(PullRightsTest, ATokenThatSaysSoIsTheProofAndIsAskedForOnce) {
  LogIn();
  registry_.Make(Tokens::kSpeaking);
  for (int i = 0; i < 3; ++i) {
    const absl::StatusOr<PullRight> right = Prove();
    ASSERT_TRUE(right.ok()) << right.status();
    EXPECT_EQ(right->access, OriginAccess::kCredentials);
    EXPECT_NE(right->token, "");
  }
  EXPECT_EQ(registry_.TokensAsked(true), 1u);
  EXPECT_EQ(registry_.TokensAsked(false), 0u) << "somebody said that it is private";
  EXPECT_EQ(registry_.origin.request_count(ManifestPath()), 0u);
}

TEST_F(PullRightsTest, OfATokenThatSaysNothingTheRegistryIsAsked) {
  LogIn();
  for (int i = 0; i < 3; ++i) {
    const absl::StatusOr<PullRight> right = Prove();
    ASSERT_TRUE(right.ok()) << right.status();
    EXPECT_EQ(right->token, "good-1");
  }
  EXPECT_THAT(registry_.ShownFor(ManifestPath()), ElementsAre("Bearer good-1"));
  EXPECT_EQ(registry_.origin.requests(ManifestPath())[0].method, "HEAD");
  EXPECT_EQ(registry_.TokensAsked(true), 1u);
}

TEST_F(PullRightsTest, SixtyFourWhoAskAtOnceShareAQuestion) {
  LogIn();
  client();
  std::vector<std::future<absl::StatusOr<PullRight>>> asked;
  for (int i = 0; i < 64; ++i) asked.push_back(std::async(std::launch::async, [&] { return Prove(); }));
  for (auto& right : asked) EXPECT_TRUE(right.get().ok());
  EXPECT_EQ(registry_.TokensAsked(true), 1u);
}

TEST_F(PullRightsTest, WhoMayNotHasNoRightHoweverItIsRefused) {
  for (const Strangers strangers : {Strangers::kRefused, Strangers::kEmptyToken}) {
    for (const Tokens tokens : {Tokens::kOpaque, Tokens::kSpeaking}) {
      registry_.Treat(strangers);
      registry_.Make(tokens);
      client_.reset();
      options_.docker_config_path.clear();
      EXPECT_TRUE(absl::IsUnauthenticated(Prove().status())) << "without credentials";
      client_.reset();
      LogIn("wrong");
      EXPECT_TRUE(absl::IsUnauthenticated(Prove().status())) << "with wrong ones";
      EXPECT_EQ(client().rights().Kept(registry_.place()), "") << "no proof, but a token";
    }
  }
}

TEST_F(PullRightsTest, WhatThePasswordNoLongerOpensIsNotProven) {
  LogIn();
  ASSERT_TRUE(Prove().ok());
  LogIn("changed, and wrong");
  EXPECT_TRUE(absl::IsUnauthenticated(Prove().status()));
  EXPECT_EQ(client().rights().Kept(registry_.place()), "");
}

TEST_F(PullRightsTest, ARightIsAskedForAgainWhenItsTokenHasExpired) {
  LogIn();
  ASSERT_TRUE(Prove().ok());
  time_.Advance(10min);
  ASSERT_TRUE(Prove().ok());
  EXPECT_EQ(registry_.TokensAsked(true), 2u);
}

TEST_F(PullRightsTest, WhereThereAreOnlyPasswordsTheRegistryIsAskedAndNothingIsShown) {
  LogIn();
  const std::string basic = absl::StrCat("Basic ", absl::Base64Escape("user:correct-horse"));
  FaultOrigin other;
  other.AddManifest("team/app", "v1", kManifestType, kBody);
  other.RequireAuthorization(basic, "Basic realm=\"r\"");
  std::ofstream(options_.docker_config_path)
      << R"({"auths":{")" << other.registry() << R"(":{"username":"user","password":"correct-horse"}}})";
  const auto prove = [&] {
    std::promise<absl::StatusOr<PullRight>> promise;
    client().rights().Prove({other.registry(), "team/app"}, "/manifests/v1",
                            [&](auto got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  };
  for (int i = 0; i < 2; ++i) {
    const absl::StatusOr<PullRight> right = prove();
    ASSERT_TRUE(right.ok()) << right.status();
    EXPECT_EQ(right->token, "") << "a password is never handed on";
  }
  EXPECT_EQ(other.request_count(ManifestPath()), 1u);
  EXPECT_EQ(client().rights().Kept({other.registry(), "team/app"}), "");
  time_.Advance(10min);
  other.RequireAuthorization("Basic other", "Basic realm=\"r\"");
  EXPECT_FALSE(prove().ok()) << "a right is not for ever";
}

TEST_F(PullRightsTest, ARepositoryThatEverybodyGetsNeedsNoRight) {
  FaultOrigin open;
  open.AddManifest("team/app", "v1", kManifestType, kBody);
  std::promise<absl::StatusOr<PullRight>> promise;
  client().rights().Prove({open.registry(), "team/app"}, "/manifests/v1",
                          [&](auto got) { promise.set_value(std::move(got)); });
  const absl::StatusOr<PullRight> right = promise.get_future().get();
  ASSERT_TRUE(right.ok()) << right.status();
  EXPECT_EQ(right->access, OriginAccess::kPublic);
  EXPECT_EQ(right->token, "");
}

// ------------------------------------------------------------------------------------- what is handed on

TEST_F(PullRightsTest, OnlyATokenForThatRepositoryThatSoonExpiresAndIsNoPasswordIsHandedOn) {
  const std::string narrow = R"({"type":"repository","name":"team/app","actions":["pull"]})";
  const std::string wide = R"({"type":"repository","name":"team/app","actions":["pull","push"]})";
  const std::string others = narrow + R"(,{"type":"repository","name":"team/other","actions":["pull"]})";
  const std::pair<std::string, bool> kCases[] = {
      {"opaque", true},
      {TokenOrigin::Speaking(narrow), true},
      {TokenOrigin::Speaking(wide), false},
      {TokenOrigin::Speaking(others), false},
      {TokenOrigin::kPassword, false},
      {absl::Base64Escape(TokenOrigin::kPassword), false},
      {absl::StrCat("v1.", absl::Base64Escape(absl::StrCat("user:", TokenOrigin::kPassword))), false},
      {"no;token,at{all}", false},
      {std::string(9000, 'x'), false}};
  for (const auto& [token, shown] : kCases) {
    client_.reset();
    LogIn();
    registry_.IssueAlways(token);
    const absl::StatusOr<PullRight> right = Prove();
    ASSERT_TRUE(right.ok()) << right.status();
    EXPECT_EQ(right->token, shown ? token : "");
    EXPECT_EQ(client().rights().Kept(registry_.place()), shown ? token : "");
  }
  registry_.origin.Always("/token", fault::Status(200, {}, R"({"token":"opaque","expires_in":7200})"));
  client_.reset();
  EXPECT_EQ(Prove().value_or(PullRight{}).token, "") << "it lives for long";
}

TEST_F(PullRightsTest, ATokenThatWasRefusedElsewhereIsRenewedUnlessItIsYoung) {
  LogIn();
  ASSERT_TRUE(Prove().ok());
  EXPECT_EQ(Renew("").value_or(""), "good-1") << "the one that is at hand";
  EXPECT_TRUE(absl::IsNotFound(Renew("good-1").status())) << "another would be refused, too";
  EXPECT_EQ(registry_.TokensAsked(true), 1u);
  time_.Advance(30s);
  EXPECT_EQ(Renew("good-1").value_or(""), "good-2");
  EXPECT_EQ(Renew("good-1").value_or(""), "good-2") << "another was at hand";
  EXPECT_EQ(registry_.TokensAsked(true), 2u);
}

TEST_F(PullRightsTest, WithoutCredentialsThereIsNoTokenToBeShown) {
  registry_.Treat(Strangers::kEmptyToken);
  EXPECT_FALSE(Renew("").ok()) << "a stranger's is not this node's";
}

// ----------------------------------------------------------------------------------- asking for another

TEST_F(PullRightsTest, AnothersTokenIsShownAndThisNodesOwnIsNot) {
  LogIn();
  const std::string theirs = registry_.Issue();
  const ReadOutcome read = Read(PullGrant::OfToken(theirs));
  ASSERT_TRUE(read.status.ok()) << read.status;
  EXPECT_EQ(read.bytes, blob_.substr(0, 100));
  EXPECT_EQ(read.access, OriginAccess::kCredentials);
  EXPECT_THAT(registry_.ShownFor(BlobPath()), ElementsAre("Bearer " + theirs));
  EXPECT_EQ(registry_.origin.request_count("/token"), 0u);
  EXPECT_EQ(client().rights().Kept(registry_.place()), "") << "nor is it kept";
  // What another may says nothing of this node.
  client_.reset();
  LogIn("wrong");
  ASSERT_TRUE(Read(PullGrant::OfToken(theirs)).status.ok());
  EXPECT_FALSE(Prove().ok());
}

TEST_F(PullRightsTest, AnothersTokenThatIsRefusedIsSaidSoWithoutIt) {
  LogIn();
  const ReadOutcome read = Read(PullGrant::OfToken("stale-secret"));
  EXPECT_TRUE(absl::IsUnauthenticated(read.status)) << read.status;
  EXPECT_THAT(std::string(read.status.message()), Not(HasSubstr("stale-secret")));
  EXPECT_EQ(registry_.origin.request_count(BlobPath()), 1u) << "nothing else is tried for it";
  EXPECT_EQ(registry_.origin.request_count("/token"), 0u);
  EXPECT_TRUE(Read(nullptr).status.ok()) << "nor does it fail this node's own";
}

TEST_F(PullRightsTest, WhatIsHiddenFromOneIsNotAbsentForTheNext) {
  LogIn();
  registry_.origin.Script(BlobPath(), {fault::Status(404)});
  EXPECT_TRUE(absl::IsPermissionDenied(Read(PullGrant::OfToken("theirs")).status));
  EXPECT_TRUE(Read(nullptr).status.ok());
}

TEST_F(PullRightsTest, WhereOneTokenLedNoOtherIsLed) {
  registry_.origin.Always("/storage", [&](const FaultRequest&, FaultConnection& to) {
    to.Send(206, {{"Content-Range", "bytes 0-99/1000"}}, blob_.substr(0, 100));
  });
  const std::string theirs = registry_.Issue();
  registry_.origin.Always(BlobPath(), [&](const FaultRequest& request, FaultConnection& to) {
    if (request.Header("authorization") != "Bearer " + theirs) return to.Send(401, {}, "");
    to.Send(307, {{"Location", registry_.origin.Url("/storage")}}, "");
  });
  ASSERT_TRUE(Read(PullGrant::OfToken(theirs)).status.ok());
  ASSERT_TRUE(Read(PullGrant::OfToken(theirs)).status.ok());
  EXPECT_EQ(registry_.origin.request_count(BlobPath()), 1u) << "it is remembered for that token";
  EXPECT_FALSE(Read(PullGrant::OfToken("other")).status.ok());
  EXPECT_FALSE(Read(PullGrant::OfStranger()).status.ok());
  EXPECT_FALSE(Read(nullptr).status.ok());
  EXPECT_EQ(registry_.origin.request_count("/storage"), 2u);
}

// -------------------------------------------------------------------------- credentials for one purpose

TEST_F(PullRightsTest, GivenCredentialsAreTheirGrantsAlone) {
  const Grant given = Given(TokenOrigin::kPassword);
  for (int i = 0; i < 3; ++i) {
    const ReadOutcome read = Read(given);
    ASSERT_TRUE(read.status.ok()) << read.status;
    EXPECT_EQ(read.bytes, blob_.substr(0, 100));
    EXPECT_EQ(read.access, OriginAccess::kCredentials);
  }
  EXPECT_EQ(registry_.TokensAsked(true), 1u) << "its token is kept";
  // Whoever asks by another right is not shown it.
  EXPECT_TRUE(absl::IsUnauthenticated(Read(nullptr).status));
  EXPECT_TRUE(absl::IsUnauthenticated(Read(PullGrant::OfStranger()).status));
  EXPECT_FALSE(Prove().ok());
  EXPECT_EQ(client().rights().Kept(registry_.place()), "");
  EXPECT_EQ(PullGrant::TokenOf(given), "") << "nor is another node";
  const Grant again = Given(TokenOrigin::kPassword);
  ASSERT_TRUE(Read(again).status.ok());
  EXPECT_EQ(registry_.TokensAsked(true), 2u) << "two hints share a token";
}

TEST_F(PullRightsTest, WhoHasGivenWrongCredentialsIsRefusedWithoutThem) {
  LogIn();
  const Grant wrong = Given("mistaken-secret");
  for (int i = 0; i < 3; ++i) {
    const absl::Status refused = Read(wrong).status;
    EXPECT_TRUE(absl::IsUnauthenticated(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("the credentials given for it do not do"));
    EXPECT_THAT(std::string(refused.message()), Not(HasSubstr("mistaken-secret")));
  }
  EXPECT_EQ(registry_.TokensAsked(true), 1u) << "asked again and again";
  EXPECT_TRUE(Read(nullptr).status.ok()) << "it fails this node's own";
}

TEST_F(PullRightsTest, NoOtherRegistryIsShownGivenCredentials) {
  const Grant elsewhere = client().LogIn("registry.example", "user", Secret(TokenOrigin::kPassword));
  EXPECT_TRUE(absl::IsUnauthenticated(Read(elsewhere).status));
  EXPECT_EQ(registry_.TokensAsked(true), 0u);
}

TEST_F(PullRightsTest, WhereGivenCredentialsLedNobodyIsLed) {
  registry_.origin.Always("/storage", [&](const FaultRequest&, FaultConnection& to) {
    to.Send(206, {{"Content-Range", "bytes 0-99/1000"}}, blob_.substr(0, 100));
  });
  registry_.origin.Always(BlobPath(), [&](const FaultRequest& request, FaultConnection& to) {
    if (!request.Header("authorization").starts_with("Bearer good-"))
      return registry_.Gate(request, to, TokenOrigin::Scope());
    to.Send(307, {{"Location", registry_.origin.Url("/storage")}}, "");
  });
  const Grant given = Given(TokenOrigin::kPassword);
  ASSERT_TRUE(Read(given).status.ok());
  EXPECT_FALSE(Read(nullptr).status.ok());
  ASSERT_TRUE(Read(given).status.ok());
  EXPECT_EQ(registry_.origin.request_count("/storage"), 2u);
  EXPECT_EQ(registry_.origin.requests(BlobPath()).back().Header("authorization"), "Bearer good-1");
}

TEST_F(PullRightsTest, AClientByAGrantAsksAllByItAndEndsAlone) {
  const Grant given = Given(TokenOrigin::kPassword);
  {
    const std::unique_ptr<RegistryClient> by = client().By(given);
    const absl::StatusOr<FetchedManifest> manifest =
        by->FetchManifest(registry_.place(), "v1", {kManifestType});
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    EXPECT_EQ(manifest->access, OriginAccess::kCredentials);
    EXPECT_TRUE(by->HeadBlob(registry_.place(), digest_).ok());
    const absl::StatusOr<std::string> whole = by->FetchWholeBlob(registry_.place(), digest_, 4096);
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_EQ(*whole, blob_);
    // A registry without referrers has them by a tag, and may have none.
    registry_.Guard(
        absl::StrCat("/v2/", TokenOrigin::kRepository, "/referrers/", manifest->digest.ToString()));
    const auto referrers = by->ListReferrers(registry_.place(), manifest->digest, "any/type");
    EXPECT_TRUE(referrers.ok()) << referrers.status();
    EXPECT_FALSE(client().HeadBlob(registry_.place(), digest_).ok());
  }
  EXPECT_TRUE(Read(given).status.ok()) << "the other client ended with it";
  EXPECT_EQ(registry_.TokensAsked(true), 1u);
}

TEST_F(PullRightsTest, ForAStrangerNoCredentialsAreShownAndWhatWasFoundStandsForAnHour) {
  LogIn();
  for (const Strangers strangers : {Strangers::kRefused, Strangers::kEmptyToken}) {
    client_.reset();
    registry_.Treat(strangers);
    const size_t before = registry_.TokensAsked(false);
    for (int i = 0; i < 3; ++i) {
      const absl::Status refused = Read(PullGrant::OfStranger()).status;
      EXPECT_TRUE(absl::IsUnauthenticated(refused)) << refused;
    }
    EXPECT_EQ(registry_.TokensAsked(false), before + 1);
    const size_t asked = registry_.origin.request_count(BlobPath());
    Read(PullGrant::OfStranger());
    EXPECT_EQ(registry_.origin.request_count(BlobPath()), asked) << "it is known";
    EXPECT_EQ(registry_.TokensAsked(true), 0u);
    time_.Advance(61min);
    EXPECT_FALSE(Read(PullGrant::OfStranger()).status.ok());
    EXPECT_EQ(registry_.TokensAsked(false), before + 2) << "it may be public by now";
  }
}

TEST_F(PullRightsTest, WhatAStrangerIsRefusedThisNodeStillGetsAndTheOtherWayRound) {
  LogIn();
  EXPECT_FALSE(Read(PullGrant::OfStranger()).status.ok());
  EXPECT_TRUE(Read(nullptr).status.ok());
  const std::vector<std::string> shown = registry_.ShownFor(BlobPath());
  EXPECT_FALSE(Read(PullGrant::OfStranger()).status.ok()) << "this node's token is not for strangers";
  EXPECT_EQ(registry_.ShownFor(BlobPath()), shown);
  EXPECT_TRUE(Read(nullptr).status.ok());
}

TEST_F(PullRightsTest, StrangersAndThisNodeThatAskAtOnceGetEachTheirOwn) {
  LogIn();
  client();
  std::vector<std::future<ReadOutcome>> strangers, own;
  for (int i = 0; i < 16; ++i) {
    strangers.push_back(std::async(std::launch::async, [&] { return Read(PullGrant::OfStranger()); }));
    own.push_back(std::async(std::launch::async, [&] { return Read(nullptr); }));
  }
  for (auto& read : strangers) EXPECT_TRUE(absl::IsUnauthenticated(read.get().status));
  for (auto& read : own) EXPECT_TRUE(read.get().status.ok());
}

TEST_F(PullRightsTest, APasswordIsShownForAStrangerWhereTheRegistryKnowsNothingElse) {
  LogIn();
  const std::string basic =
      absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat("user:", TokenOrigin::kPassword)));
  registry_.origin.Always(BlobPath(), [&](const FaultRequest& request, FaultConnection& to) {
    if (request.Header("authorization") == basic) return registry_.origin.ServeByTheRules(request, to);
    to.Send(401, {{"WWW-Authenticate", "Basic realm=\"r\""}}, "");
  });
  for (int i = 0; i < 2; ++i) {
    const ReadOutcome read = Read(PullGrant::OfStranger());
    ASSERT_TRUE(read.status.ok()) << read.status;
    EXPECT_EQ(read.access, OriginAccess::kCredentials);
  }
  client_.reset();
  options_.docker_config_path.clear();
  EXPECT_TRUE(absl::IsUnauthenticated(Read(PullGrant::OfStranger()).status)) << "it has none";
}

// A node that is logged in for its rate limit alone.
TEST_F(PullRightsTest, WhatWasFoundPublicIsAskedForByThisNodesRightForStrangersToo) {
  LogIn();
  registry_.origin.Always(BlobPath(), [&](const FaultRequest& request, FaultConnection& to) {
    const std::string shown = request.Header("authorization");
    if (shown == "Bearer anybody" || shown == "Bearer good-1")
      return registry_.origin.ServeByTheRules(request, to);
    to.Send(401,
            {{"WWW-Authenticate", absl::StrCat("Bearer realm=\"", registry_.origin.Url("/token"), "\"")}},
            "");
  });
  registry_.origin.Script("/token", {fault::Status(200, {}, R"({"token":"anybody","expires_in":300})")});
  const ReadOutcome first = Read(PullGrant::OfStranger());
  ASSERT_TRUE(first.status.ok()) << first.status;
  EXPECT_EQ(first.access, OriginAccess::kPublic);
  // Strangers are too many now.
  registry_.origin.Script(BlobPath(), {fault::Status(429)});
  const ReadOutcome second = Read(PullGrant::OfStranger());
  ASSERT_TRUE(second.status.ok()) << second.status;
  EXPECT_EQ(second.access, OriginAccess::kPublic);
  EXPECT_EQ(registry_.ShownFor(BlobPath()).back(), "Bearer good-1");
}

TEST(ScopeInTokenTest, IsWhatTheTokenSaysItself) {
  const std::string pull = R"({"type":"repository","name":"a/b","actions":["pull"]})";
  EXPECT_EQ(ScopeInToken(TokenOrigin::Speaking(pull)), "repository:a/b:pull");
  EXPECT_EQ(
      ScopeInToken(TokenOrigin::Speaking(R"({"type":"registry","name":"catalog","actions":["*"]},)" + pull)),
      "registry:catalog:* repository:a/b:pull");
  EXPECT_EQ(ScopeInToken(TokenOrigin::Speaking("")), "") << "it says that it is good for nothing";
  EXPECT_EQ(ScopeInToken(TokenOrigin::Speaking(R"({"type":"repository","name":"a b","actions":["pull"]})")),
            "");
  EXPECT_EQ(ScopeInToken(TokenOrigin::Speaking(R"({"type":1,"name":"a","actions":["pull"]},7,{})")), "");
  for (const std::string nothing : {"", ".", "..", "a.b", "a.b.c", "opaque", "a.!!.c", "a.W10.c", "a.e30.c"})
    EXPECT_EQ(ScopeInToken(nothing), std::nullopt) << nothing;
  EXPECT_EQ(ScopeInToken(std::string(100'000, 'a') + ".e30.c"), std::nullopt);
}

}  // namespace
}  // namespace sluice::p2p
