// Tokens: how often they are asked for, of whom, with what, and what a token server that misbehaves makes of
// it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <latch>
#include <mutex>
#include <optional>
#include <set>
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

}  // namespace
}  // namespace sluice::p2p
