// Tokens: how often they are asked for, of whom, with what, and what a token server that misbehaves makes of
// it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/registry_client.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/skipping_time.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kRepository[] = "team/app";
constexpr char kSecret[] = "correct-horse";
constexpr int kReaders = 64;

struct ReadOutcome {
  absl::Status status;
  std::string bytes;
  OriginAccess access = OriginAccess::kUnknown;
};

// What of a token server's life a test decides.
enum class Anonymous { kServed, kRefused };

class TokenFaultTest : public ::testing::Test {
 protected:
  TokenFaultTest() : blob_(100'000, 'b'), digest_(origin_.AddBlob(kRepository, blob_)) {
    options_.retries_max = 3;
    options_.rate_min_bytes_per_s = 0;
    options_.requests_per_host_max = 2 * kReaders;
    std::string directory = (std::filesystem::temp_directory_path() / "sluice-token-XXXXXX").string();
    directory_ = ::mkdtemp(directory.data());
  }
  ~TokenFaultTest() override {
    client_.reset();
    std::filesystem::remove_all(directory_);
  }

  RegistryClient& client() {
    if (!client_) client_.emplace(RegistryClient::Parts{time_, time_, telemetry_}, options_);
    return *client_;
  }
  BlobOrigin Place() const { return {origin_.registry(), kRepository}; }
  std::string Path() const { return FaultOrigin::BlobPath(kRepository, digest_); }
  size_t TokensAsked() const { return origin_.request_count("/token"); }
  static std::string BasicOf(const std::string& password) {
    return "Basic " + absl::Base64Escape("user:" + password);
  }
  void UseCredentials(const std::string& password = kSecret) {
    options_.docker_config_path = directory_ / "config.json";
    std::ofstream(options_.docker_config_path)
        << R"({"auths":{")" << origin_.registry() << R"(":{"username":"user","password":")" << password
        << "\"}}}";
  }

  // The registry takes the tokens that its token server gave and that are not revoked; the server gives a new
  // one each time, as `anonymous` says.
  void GiveTokens(Anonymous anonymous, std::string more = R"(,"expires_in":300)") {
    const std::string challenge =
        "Bearer realm=\"" + origin_.Url("/token") + "\",service=\"s\",scope=\"repository:team/app:pull\"";
    origin_.Always("/token",
                   [this, anonymous, more](const FaultRequest& request, FaultConnection& connection) {
                     const std::string shown = request.Header("authorization");
                     const bool known = shown == BasicOf(kSecret);
                     if (!known && (anonymous == Anonymous::kRefused || !shown.empty()))
                       return connection.Send(401, {}, "");
                     const std::string token = "t" + std::to_string(++given_);
                     {
                       const std::lock_guard lock(mutex_);
                       good_.insert("Bearer " + token);
                     }
                     connection.Send(200, {}, "{\"token\":\"" + token + "\"" + more + "}");
                   });
    Guard(Path(), challenge);
  }
  void Guard(const std::string& path, const std::string& challenge) {
    origin_.Always(path, [this, challenge](const FaultRequest& request, FaultConnection& connection) {
      {
        const std::lock_guard lock(mutex_);
        if (good_.contains(request.Header("authorization"))) {
          // Not under the lock: it sends.
        } else {
          return connection.Send(401, {{"WWW-Authenticate", challenge}}, "");
        }
      }
      origin_.ServeByTheRules(request, connection);
    });
  }
  void RevokeAll() {
    const std::lock_guard lock(mutex_);
    good_.clear();
  }

  ReadOutcome Read(Duration timeout = 30s) {
    std::promise<absl::Status> done;
    ReadOutcome outcome;
    client().ReadBlobRange(
        Place(), digest_, blob_.size(), {0, 4096}, FetchClass::kDemand, time_.Now() + timeout,
        [&](OriginAccess access) { outcome.access = access; },
        [&](std::span<const std::byte> bytes) {
          outcome.bytes.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        },
        [&](absl::Status status) { done.set_value(std::move(status)); });
    outcome.status = done.get_future().get();
    return outcome;
  }
  std::vector<ReadOutcome> ReadAtOnce(int readers = kReaders) {
    client();
    std::vector<std::future<ReadOutcome>> reads;
    for (int i = 0; i < readers; ++i)
      reads.push_back(std::async(std::launch::async, [this] { return Read(); }));
    std::vector<ReadOutcome> outcomes;
    for (auto& read : reads) outcomes.push_back(read.get());
    return outcomes;
  }
  void ExpectRight(const ReadOutcome& outcome) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_TRUE(outcome.bytes == blob_.substr(0, 4096));
  }

  FaultOrigin origin_;
  const std::string blob_;
  const Digest digest_;
  SkippingTime time_;
  Telemetry telemetry_;
  RegistryOptions options_;
  std::filesystem::path directory_;
  std::atomic<int> given_ = 0;
  std::mutex mutex_;  // guards good_
  std::set<std::string> good_;
  std::optional<RegistryClient> client_;
};

TEST_F(TokenFaultTest, SixtyFourColdReadsMakeOneTokenRequest) {
  GiveTokens(Anonymous::kServed);
  for (const ReadOutcome& outcome : ReadAtOnce()) ExpectRight(outcome);
  EXPECT_EQ(TokensAsked(), 1u);
}

TEST_F(TokenFaultTest, ReadsWhoseTokenWasRevokedMakeOneMore) {
  GiveTokens(Anonymous::kServed);
  ExpectRight(Read());
  RevokeAll();
  for (const ReadOutcome& outcome : ReadAtOnce()) ExpectRight(outcome);
  EXPECT_EQ(TokensAsked(), 2u);
}

// ------------------------------------------------------------------------------- tokens that others share

TEST_F(TokenFaultTest, AStrangersTokenIsTakenFromWhoSharesIt) {
  GiveTokens(Anonymous::kServed);
  good_.insert("Bearer shared");
  std::atomic<int> asked = 0;
  options_.shared_token = [&](const BlobOrigin& repository, auto done) {
    EXPECT_EQ(repository, Place());
    ++asked;
    std::move(done)(AccessToken{"shared", 300s, std::nullopt});
  };
  for (const ReadOutcome& outcome : ReadAtOnce()) {
    ExpectRight(outcome);
    EXPECT_EQ(outcome.access, OriginAccess::kPublic);
  }
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(TokensAsked(), 0u);
  // What came from another is not passed on as this node's own.
  std::promise<absl::StatusOr<AccessToken>> own;
  client().AnonymousToken(Place(), [&](auto got) { own.set_value(std::move(got)); });
  EXPECT_EQ(own.get_future().get().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TokenFaultTest, WhereNobodySharesTheTokenServerIsAsked) {
  GiveTokens(Anonymous::kServed);
  const absl::StatusOr<AccessToken> kNothing[] = {absl::NotFoundError("nobody has it"),
                                                  AccessToken{"", 300s, std::nullopt},
                                                  AccessToken{"dead", 0s, std::nullopt}};
  for (const absl::StatusOr<AccessToken>& nothing : kNothing) {
    client_.reset();
    options_.shared_token = [&](const BlobOrigin&, auto done) { std::move(done)(nothing); };
    const size_t before = TokensAsked();
    ExpectRight(Read());
    EXPECT_EQ(TokensAsked(), before + 1);
  }
}

// Or whoever shares could have every node show its credentials, or fail.
TEST_F(TokenFaultTest, ASharedTokenThatIsRefusedSaysNothingOfTheRepository) {
  UseCredentials();
  GiveTokens(Anonymous::kServed);
  std::atomic<int> asked = 0;
  options_.shared_token = [&](const BlobOrigin&, auto done) {
    ++asked;
    std::move(done)(AccessToken{"a lie", 300s, std::nullopt});
  };
  ReadOutcome outcome = Read();
  ExpectRight(outcome);
  EXPECT_EQ(outcome.access, OriginAccess::kPublic);
  ASSERT_EQ(TokensAsked(), 1u);
  EXPECT_EQ(origin_.requests("/token")[0].Header("authorization"), "");
  RevokeAll();
  ExpectRight(Read());
  EXPECT_EQ(asked, 1) << "it is not asked again for a while";
  time_.Advance(6min);
  RevokeAll();
  ExpectRight(Read());
  EXPECT_EQ(asked, 2);
}

TEST_F(TokenFaultTest, NobodyIsAskedToShareWhatTakesCredentials) {
  UseCredentials();
  GiveTokens(Anonymous::kRefused);
  std::atomic<int> asked = 0;
  options_.shared_token = [&](const BlobOrigin&, auto done) {
    ++asked;
    std::move(done)(absl::NotFoundError("it takes credentials"));
  };
  EXPECT_EQ(Read().access, OriginAccess::kCredentials);
  EXPECT_EQ(asked, 1) << "before it was found out";
  RevokeAll();
  ExpectRight(Read());
  EXPECT_EQ(asked, 1);
  // Nor is this node's own token given to anybody.
  std::promise<absl::StatusOr<AccessToken>> own;
  client().AnonymousToken(Place(), [&](auto got) { own.set_value(std::move(got)); });
  EXPECT_EQ(own.get_future().get().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TokenFaultTest, AStrangersTokenIsGivenWithWhatIsLeftOfItsLife) {
  GiveTokens(Anonymous::kServed);
  Guard(absl::StrCat("/v2/", kRepository, "/tags/list"),
        "Bearer realm=\"" + origin_.Url("/token") + "\",service=\"s\",scope=\"repository:team/app:pull\"");
  const auto own = [&] {
    std::promise<absl::StatusOr<AccessToken>> promise;
    client().AnonymousToken(Place(), [&](auto got) { promise.set_value(std::move(got)); });
    return promise.get_future().get();
  };
  const absl::StatusOr<AccessToken> first = own();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->value, "t1");
  EXPECT_LE(first->lifetime, 300s);
  time_.Advance(100s);
  const absl::StatusOr<AccessToken> later = own();
  ASSERT_TRUE(later.ok()) << later.status();
  EXPECT_EQ(later->value, "t1");
  EXPECT_LE(later->lifetime, 200s);
  EXPECT_EQ(TokensAsked(), 1u);
}

TEST_F(TokenFaultTest, APublicRepositoryIsPublicToWhoIsLoggedIn) {
  UseCredentials();
  GiveTokens(Anonymous::kServed);
  EXPECT_EQ(Read().access, OriginAccess::kPublic);
  ASSERT_EQ(TokensAsked(), 1u);
  EXPECT_EQ(origin_.requests("/token")[0].Header("authorization"), "");
}

TEST_F(TokenFaultTest, ATokenThatIsNeverTakenIsNotAskedForAgainAtOnce) {
  GiveTokens(Anonymous::kServed);
  origin_.Always(
      Path(), fault::Status(401, {{"WWW-Authenticate", "Bearer realm=\"" + origin_.Url("/token") + "\""}}));
  EXPECT_TRUE(absl::IsUnauthenticated(Read().status));
  EXPECT_TRUE(absl::IsUnauthenticated(Read().status));
  EXPECT_EQ(TokensAsked(), 1u);
}

TEST_F(TokenFaultTest, ARegistryThatWantedBasicOnceIsAskedWithoutAnHourLater) {
  UseCredentials();
  const std::string manifest = R"({"schemaVersion":2})";
  const std::string type = "application/vnd.oci.image.manifest.v1+json";
  origin_.AddManifest(kRepository, "v1", type, manifest);
  const std::string path = FaultOrigin::ManifestPath(kRepository, "v1");
  origin_.RequireAuthorization(BasicOf(kSecret), "Basic realm=\"r\"");
  EXPECT_EQ(client().FetchManifest(Place(), "v1", {type})->access, OriginAccess::kCredentials);
  EXPECT_EQ(client().FetchManifest(Place(), "v1", {type})->access, OriginAccess::kCredentials);
  EXPECT_EQ(origin_.request_count(path), 3u);
  time_.Advance(61min);
  origin_.RequireAuthorization("", "");
  EXPECT_EQ(client().FetchManifest(Place(), "v1", {type})->access, OriginAccess::kPublic);
  EXPECT_EQ(client().FetchManifest(Place(), "v1", {type})->access, OriginAccess::kPublic);
}

TEST_F(TokenFaultTest, CredentialsThatChangedTakeTheirTokenWithThem) {
  UseCredentials();
  GiveTokens(Anonymous::kRefused);
  ExpectRight(Read());
  const int given = given_;
  UseCredentials("wrong");
  EXPECT_TRUE(absl::IsUnauthenticated(Read().status));
  UseCredentials();
  ExpectRight(Read());
  EXPECT_EQ(given_, given + 1);
}

TEST_F(TokenFaultTest, AMountFromAnotherRepositoryTakesOneTokenForBoth) {
  const std::string uploads = "/v2/team/app/blobs/uploads/";
  const Digest wanted = Sha256::Of("wanted");
  origin_.Always("/token", fault::Status(200, {}, R"({"token":"t","expires_in":300})"));
  origin_.Script(uploads, {fault::Status(201)});
  const std::string realm = "Bearer realm=\"" + origin_.Url("/token") + "\",service=\"s\"";
  origin_.RequireAuthorization("Bearer t", realm + ",scope=\"repository:team/app:pull\"");
  const absl::StatusOr<bool> taken = client().TakeBlob(Place(), wanted, {origin_.registry(), "team/base"});
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_TRUE(*taken);
  ASSERT_EQ(TokensAsked(), 1u);
  EXPECT_THAT(origin_.requests("/token")[0].query,
              AllOf(HasSubstr("scope=repository%3Ateam%2Fapp%3Apull%2Cpush"),
                    HasSubstr("scope=repository%3Ateam%2Fbase%3Apull")));
  ASSERT_EQ(origin_.request_count(uploads), 1u);
  EXPECT_EQ(origin_.requests(uploads)[0].Header("authorization"), "Bearer t");
}

TEST_F(TokenFaultTest, SixtyFourReadsOfAPrivateRepositoryAskOnceWithoutAndOnceWith) {
  UseCredentials();
  GiveTokens(Anonymous::kRefused);
  for (const ReadOutcome& outcome : ReadAtOnce()) {
    ExpectRight(outcome);
    EXPECT_EQ(outcome.access, OriginAccess::kCredentials);
  }
  const std::vector<FaultRequest> asked = origin_.requests("/token");
  ASSERT_THAT(asked, SizeIs(2));
  EXPECT_EQ(asked[0].Header("authorization"), "");
  EXPECT_EQ(asked[1].Header("authorization"), BasicOf(kSecret));
}

TEST_F(TokenFaultTest, ReadersOfASlowTokenServerEndAtTheirOwnDeadlinesAndTheTokenServesTheNext) {
  GiveTokens(Anonymous::kServed);
  std::promise<void> late;
  const std::shared_future<void> released = late.get_future().share();
  origin_.Script("/token", {[&](const FaultRequest&, FaultConnection& connection) {
                   released.wait();
                   {
                     const std::lock_guard lock(mutex_);
                     good_.insert("Bearer slow");
                   }
                   connection.Send(200, {}, R"({"token":"slow","expires_in":300})");
                 }});
  client();
  auto patient = std::async(std::launch::async, [this] { return Read(30s); });
  const ReadOutcome hasty = Read(300ms);
  EXPECT_TRUE(absl::IsDeadlineExceeded(hasty.status)) << hasty.status;
  late.set_value();
  ExpectRight(patient.get());
  ExpectRight(Read());
  EXPECT_EQ(TokensAsked(), 1u);
}

TEST_F(TokenFaultTest, AReadThatIsCancelledWhileItWaitsForATokenEndsSoon) {
  GiveTokens(Anonymous::kServed);
  std::promise<void> asked;
  origin_.Script("/token", {[&](const FaultRequest&, FaultConnection& connection) {
                   asked.set_value();
                   connection.Stall();
                 }});
  std::promise<absl::Status> done;
  const auto control = client().ReadBlobRange(
      Place(), digest_, blob_.size(), {0, 4096}, FetchClass::kDemand, time_.Now() + 1h, [](OriginAccess) {},
      [](std::span<const std::byte>) {}, [&](absl::Status status) { done.set_value(std::move(status)); });
  asked.get_future().wait();
  control->Cancel();
  EXPECT_TRUE(absl::IsCancelled(done.get_future().get()));
}

TEST_F(TokenFaultTest, AClientThatStopsTellsWhoWaitsForAToken) {
  GiveTokens(Anonymous::kServed);
  std::promise<void> asked;
  origin_.Script("/token", {[&](const FaultRequest&, FaultConnection& connection) {
                   asked.set_value();
                   connection.Stall();
                 }});
  client();
  auto reading = std::async(std::launch::async, [this] { return Read(); });
  asked.get_future().wait();
  client_->Stop();
  EXPECT_TRUE(absl::IsCancelled(reading.get().status));
}

TEST_F(TokenFaultTest, ATokenServerThatDiesOrThrottlesIsAskedAgainOnceForAll) {
  GiveTokens(Anonymous::kServed);
  origin_.Script("/token", {fault::Hangup(), fault::Status(429, {{"Retry-After", "7"}})});
  for (const ReadOutcome& outcome : ReadAtOnce(8)) ExpectRight(outcome);
  EXPECT_EQ(TokensAsked(), 3u);
  const std::vector<Duration> delays = time_.delays();
  EXPECT_THAT(delays, ::testing::Contains(Ge(7s)));
}

TEST_F(TokenFaultTest, ATokenServerThatAnswersNonsenseFailsTheReadAndShowsNothingOfIt) {
  GiveTokens(Anonymous::kServed);
  for (const char* nonsense : {"", "[]", "{\"token\":\"correct-horse\\r\\nX: y\"}", "<html>correct-horse"}) {
    origin_.Script("/token", {fault::Status(200, {}, nonsense)});
    const absl::Status status = Read().status;
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << nonsense << status;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr(kSecret)));
  }
}

TEST_F(TokenFaultTest, LiesAboutTheLifetimeDoNotMakeARequestARead) {
  for (const char* lie : {"0", "-1", "99999999999999999999", "1e99", "\"x\""}) {
    client_.reset();
    const size_t before = TokensAsked();
    GiveTokens(Anonymous::kServed, std::string(",\"expires_in\":") + lie);
    ExpectRight(Read());
    ExpectRight(Read());
    EXPECT_EQ(TokensAsked(), before + 1) << lie;
  }
}

TEST_F(TokenFaultTest, CredentialsDoNotFollowATokenServersRedirect) {
  UseCredentials();
  GiveTokens(Anonymous::kRefused);
  FaultOrigin foreign;
  const FaultBehaviour away =
      fault::Redirect("http://localhost:" + std::to_string(foreign.port()) + "/token");
  origin_.Script("/token", {fault::Status(401), away});
  const ReadOutcome outcome = Read();
  EXPECT_TRUE(absl::IsPermissionDenied(outcome.status)) << outcome.status;
  EXPECT_EQ(foreign.connection_count(), 0u);
}

TEST_F(TokenFaultTest, WhoIsLoggedInIsNotThrottledAsAStrangerAndTheRepositoryStaysPublic) {
  UseCredentials();
  GiveTokens(Anonymous::kServed);
  EXPECT_EQ(Read().access, OriginAccess::kPublic);
  origin_.Script(Path(), {fault::Status(429, {{"Retry-After", "20"}})});
  const ReadOutcome outcome = Read();
  ExpectRight(outcome);
  EXPECT_EQ(outcome.access, OriginAccess::kPublic);
  EXPECT_EQ(origin_.requests("/token").back().Header("authorization"), BasicOf(kSecret));
  EXPECT_THAT(time_.delays(), SizeIs(0)) << "it waited";
}

TEST_F(TokenFaultTest, WhatIsHiddenFromStrangersAs403Or404IsFoundByWhoIsLoggedIn) {
  UseCredentials();
  for (const int status : {403, 404}) {
    client_.reset();
    GiveTokens(Anonymous::kServed);
    const FaultBehaviour challenge =
        fault::Status(401, {{"WWW-Authenticate", "Bearer realm=\"" + origin_.Url("/token") + "\""}});
    origin_.Script(Path(), {challenge, fault::Status(status)});
    const ReadOutcome outcome = Read();
    ExpectRight(outcome);
    EXPECT_EQ(outcome.access, OriginAccess::kCredentials) << status;
  }
}

TEST_F(TokenFaultTest, ATokenIsRenewedInTheBackgroundWhileItIsUsed) {
  GiveTokens(Anonymous::kServed);
  ExpectRight(Read());
  time_.Advance(230s);
  ExpectRight(Read());
  // The renewal goes on beside the read.
  while (given_ < 2) std::this_thread::yield();
  ExpectRight(Read());
  EXPECT_EQ(TokensAsked(), 2u);
}

TEST_F(TokenFaultTest, APushThatMayNotPullFromTheOtherRepositoryIsStillAPush) {
  UseCredentials();
  const std::string realm = "Bearer realm=\"" + origin_.Url("/token") + "\"";
  origin_.Always("/token", [](const FaultRequest& request, FaultConnection& connection) {
    const bool both = request.query.find("team%2Fsecret") != std::string::npos;
    connection.Send(both ? 403 : 200, {}, both ? "" : R"({"token":"t","expires_in":300})");
  });
  origin_.RequireAuthorization("Bearer t", realm);
  const BlobOrigin secret{origin_.registry(), "team/secret"};
  const absl::StatusOr<bool> taken = client().TakeBlob(Place(), Sha256::Of("wanted"), secret);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_FALSE(*taken);
}

}  // namespace
}  // namespace sluice::p2p
