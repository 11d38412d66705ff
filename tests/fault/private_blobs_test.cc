// What is not public, and who gets it: a home that proven members ask with their tokens, good ones and bad
// ones, and what it says to those that are not proven.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "node/blob_claim.h"
#include "node/wall_clock.h"
#include "p2p/registry/pull_grant.h"
#include "tests/fault/home_node.h"
#include "tests/fault/token_origin.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using p2p::FaultConnection;
using p2p::FaultOrigin;
using p2p::FaultRequest;
using p2p::TokenOrigin;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr uint32_t kChunk = kChunkSizeMin;
constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
  return bytes;
}

class PrivateBlobsTest : public ::testing::Test, protected HomeNode {
 protected:
  PrivateBlobsTest() { digest_ = registry_.AddBlob(bytes_); }
  void TearDown() override { Stop(); }

  void StartProven(const std::string& config = "") { Start(config, "*", PeerTrust::kProven); }
  std::string LoggedIn() {
    const std::string config = temp_.path() + "/config.json";
    registry_.WriteDockerConfig(config);
    return config;
  }

  BlobSpec Spec() const {
    return {.digest = digest_,
            .size = bytes_.size(),
            .chunk_size = kChunk,
            .root = {},
            .origins = {registry_.place()}};
  }
  std::string Claim(BlobClaim::Access access = BlobClaim::Access::kNotPublic) const {
    return FormatBlobClaim(Spec(), registry_.place(), access);
  }
  std::string Path(const std::string& repository = TokenOrigin::kRepository) const {
    return absl::StrCat("/v2/", repository, "/blobs/", digest_.ToString(),
                        "?ns=", registry_.origin.registry());
  }
  std::string OriginPath() const { return FaultOrigin::BlobPath(TokenOrigin::kRepository, digest_); }
  static std::string RangeOf(uint32_t chunk) {
    return absl::StrCat("bytes=", chunk * kChunk, "-", (chunk + 1) * kChunk - 1);
  }
  // A question for a chunk, with a token or none.
  Asking Of(uint32_t chunk, const std::string& token = "", const std::string& from = "a") const {
    return {.claim = Claim(),
            .range = RangeOf(chunk),
            .from = from,
            .more = token.empty() ? "" : absl::StrCat("Sluice-Token: ", token, "\r\n")};
  }
  std::unique_ptr<RawAsker> Begin(const Asking& asking) {
    return std::make_unique<RawAsker>(port(), Path(), asking);
  }
  Answer Ask(const Asking& asking) { return Begin(asking)->Read(); }
  Answer AskAt(const std::string& path, const Asking& asking) {
    return RawAsker(port(), path, asking).Read();
  }

  void ExpectChunk(const Answer& answer, uint32_t chunk) {
    EXPECT_EQ(answer.status, 206) << answer.body;
    EXPECT_TRUE(answer.body == bytes_.substr(size_t{chunk} * kChunk, kChunk));
    EXPECT_EQ(answer.Header("sluice-public"), "0");
  }
  void ExpectAskYourself(const Answer& answer) {
    EXPECT_EQ(answer.status, 403);
    EXPECT_THAT(answer.body, HasSubstr("ask-yourself"));
  }
  // The origin answers nobody until so many wait at the home.
  void HoldUntilOpened() {
    registry_.origin.Always(OriginPath(), [this](const FaultRequest& request, FaultConnection& to) {
      opened_.wait();
      registry_.Gate(request, to, TokenOrigin::Scope());
    });
  }
  void Open() { open_.set_value(); }

  TokenOrigin registry_;
  const std::string bytes_ = Pattern(8 * kChunk);
  Digest digest_;
  std::promise<void> open_;
  const std::shared_future<void> opened_ = open_.get_future().share();
};

// ------------------------------------------------------------------------------------------ the asker's
// token

TEST_F(PrivateBlobsTest, TheOriginIsAskedByTheAskersTokenAndWhatIsHereIsGivenWithout) {
  StartProven(LoggedIn());
  const std::string token = registry_.Issue();
  ExpectChunk(Ask(Of(3, token)), 3);
  EXPECT_THAT(registry_.ShownFor(OriginPath()), ElementsAre("Bearer " + token)) << "and this node's is not";
  EXPECT_EQ(registry_.origin.request_count("/token"), 0u);
  registry_.RevokeAll();
  ExpectChunk(Ask(Of(3)), 3);
  ExpectChunk(Ask({.role = "present-only", .claim = Claim(), .range = RangeOf(3)}), 3);
  EXPECT_THAT(registry_.ShownFor(OriginPath()), SizeIs(1));
}

TEST_F(PrivateBlobsTest, WithoutATokenThisNodesOwnIsNotUsed) {
  StartProven(LoggedIn());
  for (int i = 0; i < 3; ++i) {
    const Answer answer = Ask(Of(0));
    ExpectAskYourself(answer);
    EXPECT_EQ(answer.Header("sluice-public"), "0") << "so that the asker knows why";
  }
  EXPECT_EQ(registry_.TokensAsked(true), 0u);
  EXPECT_EQ(registry_.TokensAsked(false), 1u) << "it was found out once";
  ExpectChunk(Ask(Of(0, registry_.Issue())), 0);
}

TEST_F(PrivateBlobsTest, AFetchThatIsRefusedToOneGoesOnWithTheNextOnesToken) {
  StartProven();
  HoldUntilOpened();
  const std::string good = registry_.Issue();
  const std::unique_ptr<RawAsker> first = Begin(Of(0, "stale", "a"));
  first->AwaitInterim();
  const std::unique_ptr<RawAsker> second = Begin(Of(0, good, "b"));
  second->AwaitInterim();
  const std::unique_ptr<RawAsker> third = Begin(Of(0, "worse", "c"));
  third->AwaitInterim();
  Open();
  ExpectAskYourself(first->Read());
  ExpectChunk(second->Read(), 0);
  EXPECT_EQ(third->Read().status, 206) << "it is here now";
  EXPECT_THAT(registry_.ShownFor(OriginPath()), ElementsAre("Bearer stale", "Bearer " + good));
}

TEST_F(PrivateBlobsTest, WhenNoTokenIsLeftEachIsToAskForItself) {
  StartProven();
  HoldUntilOpened();
  std::vector<std::unique_ptr<RawAsker>> askers;
  for (const std::string name : {"a", "b", "c"}) {
    askers.push_back(Begin(Of(0, "stale-" + name, name)));
    askers.back()->AwaitInterim();
  }
  Open();
  for (const auto& asker : askers) ExpectAskYourself(asker->Read());
  EXPECT_THAT(registry_.ShownFor(OriginPath()),
              UnorderedElementsAre("Bearer stale-a", "Bearer stale-b", "Bearer stale-c"));
}

TEST_F(PrivateBlobsTest, ATokenThatExpiresOnTheWayIsReplacedByAFreshOne) {
  StartProven();
  const std::string token = registry_.Issue();
  ExpectChunk(Ask(Of(0, token)), 0);
  registry_.Revoke(token);
  const Answer expired = Ask(Of(1, token));
  ExpectAskYourself(expired);
  EXPECT_EQ(expired.Header("sluice-public"), "0");
  ExpectChunk(Ask(Of(1, registry_.Issue())), 1);
}

TEST_F(PrivateBlobsTest, AnotherNodesRefusalDoesNotFailWhoReadsHere) {
  StartProven(LoggedIn());
  HoldUntilOpened();
  const std::unique_ptr<RawAsker> asker = Begin(Of(0, "stale"));
  asker->AwaitInterim();
  const std::vector<BlobKey> keys = store_->KeysOf(digest_);
  ASSERT_THAT(keys, SizeIs(1));
  std::promise<absl::Status> read;
  cache_->Read({.blob = keys[0], .range = {0, 100}, .deadline = clock_.Now() + 30s},
               [&](absl::StatusOr<ReadResult> result) { read.set_value(result.status()); });
  Open();
  ExpectAskYourself(asker->Read());
  EXPECT_TRUE(read.get_future().get().ok());
}

TEST_F(PrivateBlobsTest, WhereThereAreOnlyPasswordsTheHomeShowsItsOwn) {
  const std::string basic =
      absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat("user:", TokenOrigin::kPassword)));
  registry_.origin.Always(OriginPath(), [&](const FaultRequest& request, FaultConnection& to) {
    if (request.Header("authorization") == basic) return registry_.origin.ServeByTheRules(request, to);
    to.Send(401, {{"WWW-Authenticate", "Basic realm=\"r\""}}, "");
  });
  StartProven(LoggedIn());
  ExpectChunk(Ask(Of(0)), 0);
  Stop();
  StartProven();
  ExpectAskYourself(Ask(Of(1)));
}

TEST_F(PrivateBlobsTest, WhatAProvenMemberSaysIsPublicIsAskedForByThisNodesRightUntilItKnowsBetter) {
  StartProven(LoggedIn());
  Asking said_public = Of(0);
  said_public.claim = Claim(BlobClaim::Access::kPublic);
  ExpectChunk(Ask(said_public), 0);
  EXPECT_EQ(registry_.TokensAsked(true), 1u) << "perhaps it is logged in for its rate limit alone";
  // Now it knows.
  said_public.range = RangeOf(1);
  ExpectAskYourself(Ask(said_public));
}

// ------------------------------------------------------------------------------------------------- bad
// tokens

TEST_F(PrivateBlobsTest, AMalformedTokenIsRefusedAndNotQuoted) {
  StartProven();
  for (const std::string& bad : {std::string("no token"), std::string("a,b"), std::string("="),
                                 std::string("t\tt"), std::string(9000, 't')}) {
    const Answer answer = Ask(Of(0, bad));
    EXPECT_EQ(answer.status, 400) << bad;
    EXPECT_THAT(answer.body, Not(HasSubstr(bad)));
  }
  EXPECT_EQ(registry_.origin.connection_count(), 0u);
}

TEST_F(PrivateBlobsTest, FromWhoIsNotProvenATokenIsIgnored) {
  Start();
  ExpectAskYourself(Ask(Of(0, registry_.Issue())));
  ExpectAskYourself(Ask(Of(0, "no token")));
  EXPECT_THAT(registry_.ShownFor(OriginPath()), Each(""));
}

// ------------------------------------------------------------------------------------ who gets what is here

TEST_F(PrivateBlobsTest, WhatOneRepositoryKeepsIsNotGivenByAnothersName) {
  StartProven();
  ExpectChunk(Ask(Of(0, registry_.Issue())), 0);
  BlobSpec theirs = Spec();
  const BlobOrigin other{registry_.origin.registry(), "team/other"};
  theirs.origins = {other};
  const std::string claim = FormatBlobClaim(theirs, other, BlobClaim::Access::kNotPublic);
  const Answer present =
      AskAt(Path("team/other"), {.role = "present-only", .claim = claim, .range = RangeOf(0)});
  EXPECT_EQ(present.status, 404);
  const Answer home = AskAt(Path("team/other"), {.claim = claim, .range = RangeOf(0)});
  EXPECT_NE(home.status, 206) << "its origin does not have it";
  EXPECT_EQ(AskAt(Path("team/other"), {.role = "", .range = ""}).status, 404);
}

// Not when it heard of that, or gives it.
TEST_F(PrivateBlobsTest, OfWhatIsPublicItSaysWhenThatWasFoundOut) {
  StartProven();
  for (uint32_t i = 0; i < 8; ++i) ExpectChunk(Ask(Of(i, registry_.Issue())), i);
  const BlobKey key = store_->KeysOf(digest_).at(0);
  while (!store_->IsSettled(key)) std::this_thread::yield();
  store_->NoteAccess(key, registry_.place(), OriginAccess::kPublic, SystemWallClockMs() - 7'200'000);
  for (const Answer& answer : {Ask(Of(0)), AskAt(Path(), {.role = "", .range = ""})}) {
    EXPECT_EQ(answer.Header("sluice-public"), "1");
    int age = 0;
    EXPECT_TRUE(absl::SimpleAtoi(answer.Header("sluice-public-age"), &age));
    EXPECT_GE(age, 7200);
    EXPECT_LT(age, 7300);
  }
}

TEST_F(PrivateBlobsTest, WithoutARoleProvenMembersGetWhatIsProvenAndOthersNothing) {
  StartProven();
  for (uint32_t i = 0; i < 8; ++i) ExpectChunk(Ask(Of(i, registry_.Issue())), i);
  const auto settled = [&] {
    const std::vector<BlobKey> keys = store_->KeysOf(digest_);
    return keys.size() == 1 && store_->IsSettled(keys[0]);
  };
  while (!settled()) std::this_thread::yield();
  const Answer whole = AskAt(Path(), {.role = "", .range = ""});
  EXPECT_EQ(whole.status, 200);
  EXPECT_TRUE(whole.body == bytes_);
  EXPECT_EQ(whole.Header("sluice-public"), "0");
  Stop();
  Start();
  EXPECT_EQ(AskAt(Path(), {.role = "", .range = ""}).status, 404);
  EXPECT_EQ(Ask({.role = "present-only", .claim = Claim(), .range = RangeOf(0)}).status, 404);
  ExpectAskYourself(Ask(Of(0)));
}

// FAULTS.md 59.
TEST_F(PrivateBlobsTest, WhoIsNotProvenCannotTellWhatIsHere) {
  const std::string absent_bytes = Pattern(8 * kChunk + 1);
  const Digest absent = registry_.AddBlob(absent_bytes);
  StartProven();
  ExpectChunk(Ask(Of(0, registry_.Issue())), 0);
  Stop();
  Start();
  BlobSpec spec = Spec();
  spec.digest = absent;
  spec.size = absent_bytes.size();
  const std::string absent_claim = FormatBlobClaim(spec, registry_.place(), BlobClaim::Access::kNotPublic);
  const std::string absent_path = absl::StrCat("/v2/", TokenOrigin::kRepository, "/blobs/", absent.ToString(),
                                               "?ns=", registry_.origin.registry());
  for (const std::string role : {"home", "present-only", ""}) {
    const Asking here{.role = role, .claim = role.empty() ? "" : Claim(), .range = RangeOf(0)};
    const Asking not_here{.role = role, .claim = role.empty() ? "" : absent_claim, .range = RangeOf(0)};
    Answer of_here = AskAt(Path(), here), of_absent = AskAt(absent_path, not_here);
    EXPECT_GE(of_here.status, 400) << role;
    EXPECT_EQ(of_here.status, of_absent.status) << role;
    EXPECT_EQ(of_here.body, of_absent.body) << role;
    EXPECT_EQ(of_here.headers, of_absent.headers) << role;
    // These come with time: on a busy machine one of the two may have taken longer.
    for (int i = 0; i < 20 && (of_here.interims > 0) != (of_absent.interims > 0); ++i) {
      of_here = AskAt(Path(), here);
      of_absent = AskAt(absent_path, not_here);
    }
    EXPECT_EQ(of_here.interims > 0, of_absent.interims > 0) << role;
  }
}

// --------------------------------------------------------------------------------------------------
// documents

class PrivateDocumentsTest : public PrivateBlobsTest {
 protected:
  PrivateDocumentsTest() { manifest_ = registry_.AddManifest("v1", kManifestType, kBody); }
  Answer Document(const std::string& kind, const std::string& reference, const std::string& token = "") {
    const std::string path = absl::StrCat("/v2/", TokenOrigin::kRepository, "/", kind, "/", reference,
                                          "?ns=", registry_.origin.registry());
    return AskAt(path,
                 {.range = "", .more = token.empty() ? "" : absl::StrCat("Sluice-Token: ", token, "\r\n")});
  }
  static constexpr char kBody[] = R"({"schemaVersion":2})";
  Digest manifest_;
};

TEST_F(PrivateDocumentsTest, AHomeAsksByTheAskersTokenAndGivesOnWhatItKeepsForAMoment) {
  StartProven(LoggedIn());
  const Answer refused = Document("manifests", "v1");
  ExpectAskYourself(refused);
  EXPECT_EQ(refused.Header("sluice-public"), "0");
  const Answer given = Document("manifests", "v1", registry_.Issue());
  EXPECT_EQ(given.status, 200);
  EXPECT_EQ(given.body, kBody);
  EXPECT_EQ(given.Header("sluice-public"), "0");
  EXPECT_EQ(Document("manifests", "v1").body, kBody) << "it is here";
  EXPECT_EQ(registry_.TokensAsked(true), 0u);
  // What another's token brought is nothing that this node has: its own mounts go by what is kept on disk.
  EXPECT_FALSE(manifests_->Get({registry_.place(), "", manifest_}).ok());
}

TEST_F(PrivateDocumentsTest, WhatIsRefusedToOneIsAskedForByTheNextOnesToken) {
  StartProven(LoggedIn());
  const std::string path = FaultOrigin::ManifestPath(TokenOrigin::kRepository, "v1");
  registry_.origin.Always(path, [&](const FaultRequest& request, FaultConnection& to) {
    opened_.wait();
    registry_.Gate(request, to, TokenOrigin::Scope());
  });
  using Ask = RegistryDocuments::Ask;
  constexpr auto kLately = RegistryDocuments::Freshness::kLately;
  const Grant grants[] = {p2p::PullGrant::OfToken("stale"), p2p::PullGrant::OfStranger(),
                          p2p::PullGrant::OfToken("worse"), p2p::PullGrant::OfToken(registry_.Issue())};
  std::vector<std::future<absl::Status>> statuses;
  for (const Grant& grant : grants) {
    auto promise = std::make_shared<std::promise<absl::Status>>();
    statuses.push_back(promise->get_future());
    registry_documents_->Manifest(registry_.place(), "v1", Ask(kLately, grant),
                                  [promise](auto got) { promise->set_value(got.status()); });
  }
  Open();
  EXPECT_TRUE(absl::IsUnauthenticated(statuses[0].get()));
  EXPECT_TRUE(absl::IsUnauthenticated(statuses[1].get()));
  EXPECT_TRUE(absl::IsUnauthenticated(statuses[2].get()));
  EXPECT_TRUE(statuses[3].get().ok());
  EXPECT_EQ(registry_.TokensAsked(true), 0u);
}

TEST_F(PrivateDocumentsTest, WhatThisNodeGotItselfIsGivenToProvenMembersAlone) {
  p2p::FetchedManifest own{kManifestType, kBody, manifest_, OriginAccess::kCredentials};
  StartProven();
  ASSERT_TRUE(manifests_->Put({registry_.place(), "", manifest_}, own).ok());
  const std::string path = absl::StrCat("/v2/", TokenOrigin::kRepository, "/manifests/", manifest_.ToString(),
                                        "?ns=", registry_.origin.registry());
  EXPECT_EQ(AskAt(path, {.role = "", .range = ""}).body, kBody);
  const std::string by_other =
      absl::StrCat("/v2/team/other/manifests/", manifest_.ToString(), "?ns=", registry_.origin.registry());
  EXPECT_EQ(AskAt(by_other, {.role = "", .range = ""}).status, 404);
  Stop();
  Start();
  EXPECT_EQ(AskAt(path, {.role = "", .range = ""}).status, 404);
  EXPECT_EQ(AskAt(path, {.range = ""}).status, 403);
}

}  // namespace
}  // namespace sluice
