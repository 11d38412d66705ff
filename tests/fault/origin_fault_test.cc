// Every origin row of the list of faults, injected over real sockets. Names begin with what is injected.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <deque>
#include <fstream>
#include <future>
#include <latch>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "p2p/http/http_client.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/origin_source.h"
#include "p2p/registry/registry_client.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/skipping_time.h"
#include "tests/unit/p2p/status_sink.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kRepository[] = "team/app";
constexpr char kSecret[] = "correct-horse";

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
  return bytes;
}

// Sets an environment variable for the length of a test.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const std::string& value) : name_(name) { ::setenv(name, value.c_str(), 1); }
  ~ScopedEnv() { ::unsetenv(name_); }

 private:
  const char* const name_;
};

struct ReadOutcome {
  absl::Status status;
  std::string bytes;
  OriginAccess access = OriginAccess::kUnknown;
};

// Keeps what a source says of access.
class ListLedger final : public AccessLedger {
 public:
  void NoteAccess(const BlobKey& blob, const BlobOrigin& origin, OriginAccess access) override {
    const std::lock_guard lock(mutex_);
    OriginAccess& known = known_[{blob, origin}];
    known = Stronger(known, access);
  }
  OriginAccess AccessOf(const BlobKey& blob, const BlobOrigin& origin) const override {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find({blob, origin});
    return found == known_.end() ? OriginAccess::kUnknown : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<BlobKey, BlobOrigin>, OriginAccess> known_;
};

class OriginFaultTest : public ::testing::Test {
 protected:
  OriginFaultTest() : blob_(Pattern(1 << 20)), digest_(origin_.AddBlob(kRepository, blob_)) {
    options_.retries_max = 3;
    options_.rate_min_bytes_per_s = 0;
    char directory[] = "/tmp/sluice-fault-test-XXXXXX";
    directory_ = mkdtemp(directory);
  }
  ~OriginFaultTest() override {
    client_.reset();
    std::system(("rm -rf " + directory_).c_str());  // NOLINT
  }

  RegistryClient& client() {
    if (!client_) client_.emplace(RegistryClient::Parts{time_, time_, telemetry_}, options_);
    return *client_;
  }
  BlobOrigin Place() const { return {origin_.registry(), kRepository}; }
  std::string Path() const { return FaultOrigin::BlobPath(kRepository, digest_); }

  ReadOutcome Read(const BlobOrigin& place, ByteRange range, Duration timeout = 30s) {
    std::promise<absl::Status> done;
    ReadOutcome outcome;
    client().ReadBlobRange(
        place, digest_, blob_.size(), range, FetchClass::kDemand, time_.Now() + timeout,
        [&](OriginAccess access) { outcome.access = access; },
        [&](std::span<const std::byte> bytes) {
          outcome.bytes.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        },
        [&](absl::Status status) { done.set_value(std::move(status)); });
    outcome.status = done.get_future().get();
    return outcome;
  }
  ReadOutcome Read(ByteRange range = {4096, 8192}) { return Read(Place(), range); }

  void ExpectRight(const ReadOutcome& outcome, ByteRange range = {4096, 8192}) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_TRUE(outcome.bytes == blob_.substr(range.offset, range.length));
  }
  // An error of that code, whose text holds `text` and no secret.
  void ExpectError(const absl::Status& status, absl::StatusCode code, const std::string& text) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr(kSecret)));
  }

  void UseCredentials(const std::string& registry) {
    options_.docker_config_path = directory_ + "/config.json";
    const std::string auth = absl::Base64Escape(std::string("user:") + kSecret);
    std::ofstream(options_.docker_config_path)
        << R"({"auths":{")" << registry << R"(":{"auth":")" << auth << "\"}}}";
  }
  std::string Basic() const { return "Basic " + absl::Base64Escape(std::string("user:") + kSecret); }

  FaultOrigin origin_;
  const std::string blob_;
  const Digest digest_;
  SkippingTime time_;
  Telemetry telemetry_;
  RegistryOptions options_;
  std::string directory_;
  std::optional<RegistryClient> client_;
};

FaultBehaviour Partial(std::string content_range, std::string body, FaultConnection::Headers more = {}) {
  more.emplace_back("Content-Range", std::move(content_range));
  return fault::Status(206, std::move(more), std::move(body));
}

TEST_F(OriginFaultTest, NoFaultGivesTheRangeAndCountsIt) {
  ExpectRight(Read());
  EXPECT_EQ(Read().access, OriginAccess::kPublic);
  EXPECT_EQ(telemetry_.origin_bytes.value(), 2 * 8192u);
  EXPECT_EQ(telemetry_.origin_requests[2].value(), 2u);
}

TEST_F(OriginFaultTest, CredentialsThatAreKnownButNotShownLeaveAnAnswerPublic) {
  UseCredentials(origin_.registry());
  EXPECT_EQ(Read().access, OriginAccess::kPublic);
}

TEST_F(OriginFaultTest, AnAnonymousTokenLeavesAnAnswerPublic) {
  origin_.Always("/token", fault::Status(200, {}, R"({"token":"t0k","expires_in":300})"));
  origin_.RequireAuthorization("Bearer t0k", "Bearer realm=\"" + origin_.Url("/token") + "\"");
  EXPECT_EQ(Read().access, OriginAccess::kPublic);
  EXPECT_EQ(Read().access, OriginAccess::kPublic) << "by the token that was kept";
}

TEST_F(OriginFaultTest, WhatATokenForCredentialsBroughtIsNotPublic) {
  UseCredentials(origin_.registry());
  origin_.Always("/token", fault::TokenForCredentials(R"({"token":"t0k","expires_in":300})"));
  origin_.RequireAuthorization("Bearer t0k", "Bearer realm=\"" + origin_.Url("/token") + "\"");
  EXPECT_EQ(Read().access, OriginAccess::kCredentials);
  EXPECT_EQ(Read().access, OriginAccess::kCredentials) << "by the token that was kept";
}

TEST_F(OriginFaultTest, WhatARedirectForCredentialsLedToIsNotPublicThoughItTookNoneItself) {
  UseCredentials(origin_.registry());
  origin_.RequireAuthorization(Basic(), "Basic realm=\"r\"");
  FaultOrigin storage;
  storage.AddBlob(kRepository, blob_);
  EXPECT_EQ(Read().access, OriginAccess::kCredentials);
  origin_.Always(Path(), fault::Redirect(storage.Url(Path())));
  EXPECT_EQ(Read().access, OriginAccess::kCredentials);
  const size_t asked = origin_.request_count(Path());
  EXPECT_EQ(Read().access, OriginAccess::kCredentials) << "by the redirect that was remembered";
  EXPECT_EQ(origin_.request_count(Path()), asked);
}

TEST_F(OriginFaultTest, ARefusalTellsNothingOfAccess) {
  origin_.Always(Path(), fault::Status(403));
  EXPECT_EQ(Read().access, OriginAccess::kUnknown);
}

TEST_F(OriginFaultTest, Row1_UnauthorizedWithoutChallengeFailsOnce) {
  origin_.Always(Path(), fault::Status(401));
  ExpectError(Read().status, absl::StatusCode::kUnauthenticated, "no way to log in");
  EXPECT_EQ(origin_.request_count(Path()), 1u);
}

TEST_F(OriginFaultTest, Row1_UnauthorizedWithHostileChallengesFailsOnce) {
  for (const std::string challenge :
       {"Bearer", "Bearer realm=\"", "Negotiate abc", "Bearer realm=\"a\",realm=\"b\""}) {
    origin_.Script(Path(), {fault::Status(401, {{"WWW-Authenticate", challenge}})});
    EXPECT_EQ(Read().status.code(), absl::StatusCode::kUnauthenticated) << challenge;
  }
  EXPECT_EQ(origin_.request_count(Path()), 4u);
}

TEST_F(OriginFaultTest, WrongBasicPasswordFailsAfterOneTry) {
  UseCredentials(origin_.registry());
  origin_.RequireAuthorization("Basic other", "Basic realm=\"r\"");
  ExpectError(Read().status, absl::StatusCode::kUnauthenticated, "docker login");
  EXPECT_EQ(origin_.request_count(Path()), 2u);
}

TEST_F(OriginFaultTest, BasicIsSentAtOnceWhenItWasWantedBefore) {
  UseCredentials(origin_.registry());
  origin_.RequireAuthorization(Basic(), "Basic realm=\"r\"");
  ExpectRight(Read());
  ExpectRight(Read());
  EXPECT_EQ(origin_.request_count(Path()), 3u);
}

TEST_F(OriginFaultTest, TokenIsFetchedOnceAndRenewedWhenItExpires) {
  UseCredentials(origin_.registry());
  origin_.Always("/token", fault::TokenForCredentials(R"({"token":"t0k","expires_in":300})"));
  origin_.RequireAuthorization("Bearer t0k", "Bearer realm=\"" + origin_.Url("/token") + "\",service=\"s\"");
  ExpectRight(Read());
  ExpectRight(Read());
  ASSERT_EQ(origin_.request_count("/token"), 2u);
  EXPECT_EQ(origin_.requests("/token")[0].Header("authorization"), "");
  const FaultRequest request = origin_.requests("/token")[1];
  EXPECT_EQ(request.Header("authorization"), Basic());
  EXPECT_THAT(request.query,
              AllOf(HasSubstr("service=s"), HasSubstr("scope=repository%3Ateam%2Fapp%3Apull")));
  time_.Advance(301s);
  ExpectRight(Read());
  EXPECT_EQ(origin_.request_count("/token"), 3u);
}

TEST_F(OriginFaultTest, TokenThatIsRefusedFailsWithoutALoop) {
  origin_.Always("/token", fault::Status(200, {}, R"({"token":"bad"})"));
  origin_.RequireAuthorization("Bearer good", "Bearer realm=\"" + origin_.Url("/token") + "\"");
  ExpectError(Read().status, absl::StatusCode::kUnauthenticated, "docker login");
  EXPECT_EQ(origin_.request_count(Path()), 2u);
  EXPECT_EQ(origin_.request_count("/token"), 1u);
}

TEST_F(OriginFaultTest, Row2_RealmOnForeignHostGetsNoCredentials) {
  UseCredentials(origin_.registry());
  FaultOrigin foreign;
  foreign.Always("/token", fault::Status(403));
  const std::string realm = "http://localhost:" + std::to_string(foreign.port()) + "/token";
  origin_.RequireAuthorization("Bearer t", "Bearer realm=\"" + realm + "\"");
  ExpectError(Read().status, absl::StatusCode::kUnauthenticated, "got no credentials");
  ASSERT_EQ(foreign.request_count("/token"), 1u);
  EXPECT_EQ(foreign.requests("/token")[0].Header("authorization"), "");
}

TEST_F(OriginFaultTest, Row3_ExpiredRedirectIsResolvedAgainOnce) {
  FaultOrigin storage;
  storage.Always("/signed", [&](const FaultRequest& request, FaultConnection& connection) {
    FaultRequest of_blob = request;
    of_blob.path = Path();
    storage.ServeByTheRules(of_blob, connection);
  });
  storage.AddBlob(kRepository, blob_);
  origin_.Always(Path(), fault::Redirect(storage.Url("/signed?signature=") + kSecret));
  ExpectRight(Read());
  time_.Advance(options_.redirect_ttl - 1s);
  ExpectRight(Read());
  EXPECT_EQ(origin_.request_count(Path()), 1u) << "the redirect's end was not remembered";
  time_.Advance(2s);
  ExpectRight(Read());
  EXPECT_EQ(origin_.request_count(Path()), 2u) << "use made the redirect younger";

  storage.Script("/signed", {fault::Status(403)});
  ExpectRight(Read());
  EXPECT_EQ(origin_.request_count(Path()), 3u);

  storage.Always("/signed", fault::Status(403));
  ExpectError(Read().status, absl::StatusCode::kPermissionDenied, "403");
  EXPECT_EQ(origin_.request_count(Path()), 4u);
}

TEST_F(OriginFaultTest, Row4_NotFoundIsRememberedForAMoment) {
  origin_.Always(Path(), fault::Status(404));
  ExpectError(Read().status, absl::StatusCode::kNotFound, "404");
  ExpectError(Read().status, absl::StatusCode::kNotFound, "moment ago");
  EXPECT_EQ(origin_.request_count(Path()), 1u);
  time_.Advance(options_.not_found_ttl + 1ms);
  EXPECT_TRUE(absl::IsNotFound(Read().status));
  EXPECT_EQ(origin_.request_count(Path()), 2u);
}

TEST_F(OriginFaultTest, Row5_RangeNotSatisfiableSaysSo) {
  origin_.Script(Path(), {fault::Status(416, {{"Content-Range", "bytes */100"}})});
  ExpectError(Read().status, absl::StatusCode::kOutOfRange, "shorter than the size its manifest promised");
}

TEST_F(OriginFaultTest, Row5_SizeMismatchSaysSo) {
  origin_.Script(Path(), {Partial("bytes 4096-12287/99999999", blob_.substr(4096, 8192))});
  const ReadOutcome outcome = Read();
  ExpectError(outcome.status, absl::StatusCode::kDataLoss, "99999999 bytes, its manifest promised 1048576");
  EXPECT_EQ(outcome.bytes, "");
}

TEST_F(OriginFaultTest, Row6_RetryAfterIsHonouredWithJitterAndCapped) {
  options_.retry_after_max = 9s;
  origin_.Script(
      Path(), {fault::Status(429, {{"Retry-After", "7"}}), fault::Status(429, {{"Retry-After", "100000"}})});
  ExpectRight(Read());
  EXPECT_EQ(origin_.request_count(Path()), 3u);
  const std::vector<Duration> delays = time_.delays();
  ASSERT_THAT(delays, SizeIs(2));
  EXPECT_THAT(delays[0], AllOf(Ge(7s), Le(7s + options_.backoff_max)));
  EXPECT_THAT(delays[1], AllOf(Ge(9s), Le(9s + options_.backoff_max)));
  EXPECT_NE(delays[0] % 1s, 0s) << "no jitter";
}

TEST_F(OriginFaultTest, Row7_BurstOfServerErrorsIsRetriedABoundedNumberOfTimes) {
  origin_.Always(Path(), fault::Status(503));
  ExpectError(Read().status, absl::StatusCode::kUnavailable, "gave up after 4 attempts");
  EXPECT_EQ(origin_.request_count(Path()), 1u + options_.retries_max);
  EXPECT_EQ(telemetry_.origin_requests[5].value(), 4u);
}

TEST_F(OriginFaultTest, Row7_BreakerOpensAndOneProbeClosesIt) {
  options_.retries_max = 0;
  options_.breaker_failures_max = 3;
  origin_.Script(Path(), {fault::Status(500), fault::Status(500), fault::Status(500)});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(absl::IsUnavailable(Read().status));
  ExpectError(Read().status, absl::StatusCode::kUnavailable, "3 times in a row");
  EXPECT_EQ(origin_.request_count(Path()), 3u);
  time_.Advance(options_.breaker_open_time + 1ms);
  ExpectRight(Read());
  ExpectRight(Read());
}

TEST_F(OriginFaultTest, Row8_DripIsAbortedByTheMinimumRate) {
  options_.rate_min_bytes_per_s = 1000;
  options_.rate_window = 1s;
  origin_.Script(
      Path(), {[&](const FaultRequest&, FaultConnection& connection) {
        connection.SendHead(206, {{"Content-Range", "bytes 4096-12287/1048576"}, {"Content-Length", "8192"}});
        connection.Drip(blob_.substr(4096, 8192));
      }});
  const ReadOutcome outcome = Read();
  ExpectError(outcome.status, absl::StatusCode::kUnavailable, "too slow");
  EXPECT_LT(outcome.bytes.size(), 8192u);
}

TEST_F(OriginFaultTest, Row9_StallAfterHeadersEndsAtTheDeadline) {
  origin_.Script(
      Path(), {[](const FaultRequest&, FaultConnection& connection) {
        connection.SendHead(206, {{"Content-Range", "bytes 4096-12287/1048576"}, {"Content-Length", "8192"}});
        connection.Stall();
      }});
  const ReadOutcome outcome = Read(Place(), {4096, 8192}, 300ms);
  ExpectError(outcome.status, absl::StatusCode::kDeadlineExceeded, "timed out");
  EXPECT_EQ(outcome.bytes, "");
}

TEST_F(OriginFaultTest, Row9_AHostThatFailsForOneBlobIsNotHeldBackForOthers) {
  options_.retries_max = 0;
  options_.breaker_failures_max = 2;
  origin_.AddBlob("team/other", blob_);
  const BlobOrigin other{origin_.registry(), "team/other"};
  std::latch arrived(3);
  std::promise<void> answered;
  const std::shared_future<void> other_answered = answered.get_future().share();
  origin_.Always(Path(), [&](const FaultRequest&, FaultConnection& connection) {
    arrived.count_down();
    other_answered.wait();
    connection.CloseAfter();
  });
  client();
  std::vector<std::future<ReadOutcome>> failing;
  for (int i = 0; i < 3; ++i) failing.push_back(std::async(std::launch::async, [this] { return Read(); }));
  arrived.wait();
  time_.Advance(1ms);
  ExpectRight(Read(other, {4096, 8192}));
  answered.set_value();
  for (auto& read : failing) EXPECT_TRUE(absl::IsUnavailable(read.get().status));
  ExpectRight(Read(other, {4096, 8192}));
}

TEST_F(OriginFaultTest, RefusalsThatWaitingDoesNotMendAreNoOutages) {
  for (const int status : {400, 405, 410, 451}) {
    origin_.Script(Path(), {fault::Status(status)});
    EXPECT_TRUE(absl::IsFailedPrecondition(Read().status)) << status;
  }
  EXPECT_EQ(origin_.request_count(Path()), 4u);
}

TEST_F(OriginFaultTest, Row9_StallBeforeHeadersEndsAtTheDeadline) {
  origin_.Script(Path(), {[](const FaultRequest&, FaultConnection& connection) { connection.Stall(); }});
  EXPECT_TRUE(absl::IsDeadlineExceeded(Read(Place(), {4096, 8192}, 300ms).status));
}

TEST_F(OriginFaultTest, Row10_ShortBodyIsAnErrorAndOnlyItsBytesAreGiven) {
  origin_.Script(Path(), {[&](const FaultRequest&, FaultConnection& connection) {
                   connection.Send(
                       206, {{"Content-Range", "bytes 4096-12287/1048576"}, {"Content-Length", "8192"}},
                       blob_.substr(4096, 100));
                   connection.CloseAfter();
                 }});
  const ReadOutcome outcome = Read();
  EXPECT_TRUE(absl::IsUnavailable(outcome.status)) << outcome.status;
  EXPECT_EQ(outcome.bytes, blob_.substr(4096, 100));
}

TEST_F(OriginFaultTest, Row10_ShortBodyWithoutLengthIsAnError) {
  origin_.Script(
      Path(), {[&](const FaultRequest&, FaultConnection& connection) {
        connection.SendHead(206, {{"Content-Range", "bytes 4096-12287/1048576"}, {"Connection", "close"}});
        connection.SendRaw(blob_.substr(4096, 100));
        connection.CloseAfter();
      }});
  ExpectError(Read().status, absl::StatusCode::kUnavailable, "100 of 8192");
}

TEST_F(OriginFaultTest, Row10_LongBodyIsAnErrorAndNothingBeyondTheRangeIsGiven) {
  origin_.Script(
      Path(), {[&](const FaultRequest&, FaultConnection& connection) {
        connection.SendHead(206, {{"Content-Range", "bytes 4096-12287/1048576"}, {"Connection", "close"}});
        connection.SendRaw(blob_.substr(4096, 100'000));
        connection.CloseAfter();
      }});
  const ReadOutcome outcome = Read();
  ExpectError(outcome.status, absl::StatusCode::kDataLoss, "more than the 8192 bytes");
  EXPECT_LE(outcome.bytes.size(), 8192u);
}

TEST_F(OriginFaultTest, Row10_HangupIsRetriedBeforeTheFirstByte) {
  origin_.Script(Path(), {fault::Hangup(), fault::Hangup()});
  ExpectRight(Read());
}

TEST_F(OriginFaultTest, Row11_WrongContentRangeIsRejected) {
  const std::string body = blob_.substr(0, 8192);
  const std::vector<FaultBehaviour> wrong = {Partial("bytes 0-8191/1048576", body),
                                             Partial("bytes 4096-12287/*", body),
                                             Partial("bytes 4096-12286/1048576", body),
                                             Partial("bytes 12287-4096/1048576", body),
                                             Partial("bytes -1-12287/1048576", body),
                                             Partial("octets 4096-12287/1048576", body),
                                             Partial("bytes 4096-99999999999999999999/1048576", body),
                                             fault::Status(206, {}, body)};
  origin_.Script(Path(), wrong);
  for (size_t i = 0; i < wrong.size(); ++i) {
    const ReadOutcome outcome = Read();
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kDataLoss) << i << ": " << outcome.status;
    EXPECT_EQ(outcome.bytes, "") << i;
  }
  EXPECT_EQ(origin_.request_count(Path()), wrong.size()) << "a lie was retried";
}

TEST_F(OriginFaultTest, Row12_IgnoredRangeIsUsedOnlyFromTheStartAndCapped) {
  const FaultBehaviour whole = fault::Status(200, {}, blob_);
  origin_.Script(Path(), {whole, whole, whole});
  ExpectRight(Read({0, 8192}), {0, 8192});
  EXPECT_LT(telemetry_.origin_bytes.value(), blob_.size());
  const ReadOutcome inside = Read({4096, 8192});
  ExpectError(inside.status, absl::StatusCode::kDataLoss, "ignores Range");
  EXPECT_EQ(inside.bytes, "");
  ExpectRight(Read({0, blob_.size()}), {0, blob_.size()});
}

TEST_F(OriginFaultTest, Row13_MultipartIsRejected) {
  origin_.Script(Path(), {Partial("bytes 4096-12287/1048576", blob_.substr(4096, 8192),
                                  {{"Content-Type", "multipart/byteranges; boundary=x"}})});
  ExpectError(Read().status, absl::StatusCode::kDataLoss, "multipart");
}

TEST_F(OriginFaultTest, Row14_RedirectLoopStops) {
  origin_.Always(Path(), fault::Redirect(origin_.Url("/loop")));
  origin_.Always("/loop", fault::Redirect(origin_.Url("/loop")));
  ExpectError(Read().status, absl::StatusCode::kUnavailable, "redirects");
  EXPECT_EQ(origin_.request_count("/loop"), 5u);
}

TEST_F(OriginFaultTest, Row15_RedirectToForbiddenPlacesIsRefused) {
  for (const std::string target :
       {"http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/",
        "file:///etc/passwd", "gopher://127.0.0.1/", "http://0.0.0.0:1/"}) {
    origin_.Script(Path(), {fault::Redirect(target)});
    const ReadOutcome outcome = Read();
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kPermissionDenied) << target << ": " << outcome.status;
  }
}

// A registry elsewhere is played by the origin as a proxy: its name need not resolve.
TEST_F(OriginFaultTest, Row15_RegistryElsewhereMayNotPointToLoopback) {
  const ScopedEnv proxy("http_proxy", origin_.Url(""));
  options_.plain_http = {"registry.example"};
  const BlobOrigin elsewhere{"registry.example", kRepository};
  ExpectRight(Read(elsewhere, {4096, 8192}));
  ASSERT_EQ(origin_.requests(Path())[0].host, "registry.example");

  FaultOrigin neighbour;
  for (const std::string host : {"127.0.0.1", "localhost", "127.1", "2130706433", "[::1]"}) {
    const std::string target = "http://" + host + ":" + std::to_string(neighbour.port()) + "/secret";
    origin_.Script(Path(), {fault::Redirect(target)});
    EXPECT_TRUE(absl::IsPermissionDenied(Read(elsewhere, {4096, 8192}).status)) << host;
    origin_.Script(Path(), {fault::Status(401, {{"WWW-Authenticate", "Bearer realm=\"" + target + "\""}})});
    EXPECT_TRUE(absl::IsPermissionDenied(Read(elsewhere, {4096, 8192}).status)) << host;
  }
  EXPECT_EQ(neighbour.connection_count(), 0u);
}

// Waits for one bare request.
absl::Status SendAndWait(HttpClient& http, HttpRequest request) {
  std::promise<absl::Status> done;
  http.Send(std::move(request), std::make_unique<StatusSink>(done));
  return done.get_future().get();
}

TEST_F(OriginFaultTest, Row15_ResolvedAddressIsCheckedAtConnectTimeAndOnKeptConnections) {
  HttpClient http({});
  HttpRequest allowed;
  allowed.url = origin_.Url("/x");
  allowed.loopback = LoopbackRule::kAllow;
  HttpRequest refused;
  refused.url = allowed.url;
  EXPECT_TRUE(absl::IsPermissionDenied(SendAndWait(http, std::move(refused))));
  EXPECT_EQ(origin_.connection_count(), 0u);

  EXPECT_TRUE(SendAndWait(http, std::move(allowed)).ok());
  HttpRequest kept;
  kept.url = origin_.Url("/x");
  EXPECT_TRUE(absl::IsPermissionDenied(SendAndWait(http, std::move(kept))));
  EXPECT_EQ(origin_.request_count("/x"), 1u);

  HttpRequest link_local;
  link_local.url = "http://169.254.1.1/x";
  link_local.loopback = LoopbackRule::kAllow;
  EXPECT_TRUE(absl::IsPermissionDenied(SendAndWait(http, std::move(link_local))));
}

TEST_F(OriginFaultTest, Row16_RedirectToAnotherHostCarriesNoAuthorization) {
  UseCredentials(origin_.registry());
  origin_.RequireAuthorization(Basic(), "Basic realm=\"r\"");
  FaultOrigin storage;
  storage.AddBlob(kRepository, blob_);
  const std::string elsewhere = "http://localhost:" + std::to_string(storage.port()) + Path();
  ExpectRight(Read());
  origin_.Script(Path(), {fault::Redirect(elsewhere)});
  ExpectRight(Read());
  EXPECT_EQ(origin_.requests(Path()).back().Header("authorization"), Basic());
  ASSERT_EQ(storage.request_count(Path()), 1u);
  EXPECT_EQ(storage.requests(Path())[0].Header("authorization"), "");
}

TEST_F(OriginFaultTest, Row17_StepFromHttpsToHttpIsRefused) {
  FaultOrigin secure(FaultOrigin::Transport::kTls);
  options_.ca_file = secure.ca_file();
  options_.loopback_https = {secure.registry()};
  secure.AddBlob(kRepository, blob_);
  const BlobOrigin place{secure.registry(), kRepository};
  ExpectRight(Read(place, {4096, 8192}));
  secure.Script(Path(), {fault::Redirect(origin_.Url(Path()))});
  ExpectError(Read(place, {4096, 8192}).status, absl::StatusCode::kPermissionDenied, "https to plain http");
  secure.Script(
      Path(), {fault::Status(401, {{"WWW-Authenticate", "Bearer realm=\"" + origin_.Url("/token") + "\""}})});
  ExpectError(Read(place, {4096, 8192}).status, absl::StatusCode::kPermissionDenied, "plain http realm");
  EXPECT_EQ(origin_.connection_count(), 0u);
}

TEST_F(OriginFaultTest, Row18_CertificateThatNobodyVouchesForFailsClosed) {
  FaultOrigin secure(FaultOrigin::Transport::kTls);
  options_.loopback_https = {secure.registry()};
  secure.AddBlob(kRepository, blob_);
  ExpectError(Read({secure.registry(), kRepository}, {4096, 8192}).status,
              absl::StatusCode::kPermissionDenied, "CA file");
  EXPECT_EQ(secure.request_count(Path()), 0u);
}

TEST_F(OriginFaultTest, Row19_ContentEncodingOnARangeIsRejected) {
  origin_.Script(Path(), {Partial("bytes 4096-12287/1048576", blob_.substr(4096, 8192),
                                  {{"Content-Encoding", "gzip"}})});
  const ReadOutcome outcome = Read();
  ExpectError(outcome.status, absl::StatusCode::kDataLoss, "Content-Encoding");
  EXPECT_EQ(outcome.bytes, "");
}

TEST_F(OriginFaultTest, Row20_NegativeAndHugeLengthsAreRefused) {
  options_.retries_max = 0;
  for (const std::string length :
       {"-1", "99999999999999999999999", "9223372036854775807", "8193", "0x2000", "1e3"}) {
    origin_.Script(Path(), {[&](const FaultRequest&, FaultConnection& connection) {
                     connection.Send(
                         206, {{"Content-Range", "bytes 4096-12287/1048576"}, {"Content-Length", length}},
                         blob_.substr(4096, 8192));
                     connection.CloseAfter();
                   }});
    const ReadOutcome outcome = Read();
    EXPECT_FALSE(outcome.status.ok()) << length;
    EXPECT_EQ(outcome.bytes, "") << length;
  }
}

TEST_F(OriginFaultTest, Row20_ManifestOfAGigabyteIsCapped) {
  const std::string path = FaultOrigin::ManifestPath(kRepository, "v1");
  const FaultBehaviour endless = [](const FaultRequest&, FaultConnection& connection) {
    connection.SendHead(200, {{"Connection", "close"}});
    const std::string block(1 << 20, 'x');
    for (int i = 0; i < 64; ++i) connection.SendRaw(block);
    connection.CloseAfter();
  };
  origin_.Script(path, {fault::Status(200, {{"Content-Length", "1073741824"}}, "{"), endless});
  for (int i = 0; i < 2; ++i) {
    ExpectError(client().FetchManifest(Place(), "v1", {}).status(), absl::StatusCode::kResourceExhausted,
                "limit");
  }
  EXPECT_LE(telemetry_.origin_bytes.value(), (4u << 20) + (1u << 20));
}

TEST_F(OriginFaultTest, Row21_ManifestWithOtherBytesThanItsDigestIsDiscarded) {
  const Digest digest = origin_.AddManifest(kRepository, "v1", "application/json", "{}");
  const std::string path = FaultOrigin::ManifestPath(kRepository, digest.ToString());
  origin_.Script(path, {fault::Status(200, {}, "[]")});
  ExpectError(client().FetchManifest(Place(), digest.ToString(), {}).status(), absl::StatusCode::kDataLoss,
              "digest");
  EXPECT_TRUE(client().FetchManifest(Place(), digest.ToString(), {}).ok());

  const std::string tag_path = FaultOrigin::ManifestPath(kRepository, "v1");
  origin_.Script(tag_path, {fault::Status(200, {{"Docker-Content-Digest", digest.ToString()}}, "[]")});
  EXPECT_EQ(client().FetchManifest(Place(), "v1", {}).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(OriginFaultTest, Row21_WholeBlobWithOtherBytesIsDiscarded) {
  origin_.Script(Path(), {fault::Status(200, {}, std::string(blob_.size(), 'x'))});
  ExpectError(client().FetchWholeBlob(Place(), digest_, 2 << 20).status(), absl::StatusCode::kDataLoss,
              "digest");
  EXPECT_EQ(client().FetchWholeBlob(Place(), digest_, 1000).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(client().FetchWholeBlob(Place(), digest_, 2 << 20).value(), blob_);
}

TEST_F(OriginFaultTest, Row22_ConnectionsThatDiedAreReplaced) {
  ExpectRight(Read());
  // What a client sees of an address that moved: the kept connection closes, and a new one must be made.
  origin_.Script(Path(), {[&](const FaultRequest& request, FaultConnection& connection) {
                   origin_.ServeByTheRules(request, connection);
                   connection.CloseAfter();
                 }});
  ExpectRight(Read());
  ExpectRight(Read());
  EXPECT_GE(origin_.connection_count(), 2u);
}

TEST_F(OriginFaultTest, RegistryThatIsDownIsAnErrorAfterRetries) {
  uint16_t port = 0;
  {
    const FaultOrigin gone;
    port = gone.port();
  }
  const ReadOutcome outcome = Read({"127.0.0.1:" + std::to_string(port), kRepository}, {4096, 8192});
  ExpectError(outcome.status, absl::StatusCode::kUnavailable, "gave up after 4 attempts");
  EXPECT_EQ(telemetry_.origin_requests[0].value(), 4u);
}

TEST_F(OriginFaultTest, NamesFromOutsideCanNotLeaveTheirPlaceInTheUrl) {
  EXPECT_EQ(Read({origin_.registry(), "../../etc"}, {0, 1}).status.code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Read({"127.0.0.1/evil?", kRepository}, {0, 1}).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client().FetchManifest(Place(), "../x", {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client().FetchManifest(Place(), "sha256:../..", {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(origin_.connection_count(), 0u);
}

TEST_F(OriginFaultTest, ClientThatGoesAwayAnswersEveryRead) {
  std::promise<absl::Status> done;
  origin_.Always(Path(), [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  client().ReadBlobRange(
      Place(), digest_, blob_.size(), {0, 10}, FetchClass::kDemand, time_.Now() + 30s, [](OriginAccess) {},
      [](std::span<const std::byte>) {}, [&](absl::Status status) { done.set_value(std::move(status)); });
  client_.reset();
  EXPECT_TRUE(absl::IsCancelled(done.get_future().get()));
}

// Never comes to what is put off.
class NeverLater final : public Executor {
 public:
  explicit NeverLater(Executor& now) : now_(now) {}
  void Post(Task task) override { now_.Post(std::move(task)); }
  void PostAt(Instant, Task task) override {
    const std::lock_guard lock(mutex_);
    put_off_.push_back(std::move(task));
  }

 private:
  Executor& now_;
  std::mutex mutex_;
  std::vector<Task> put_off_;
};

TEST_F(OriginFaultTest, AReadThatIsCancelledEndsOnTheWireAndBetweenTries) {
  NeverLater executor(time_);
  client_.emplace(RegistryClient::Parts{time_, executor, telemetry_}, options_);
  std::atomic<bool> gone{false};
  origin_.Always(Path(), [&](const FaultRequest&, FaultConnection& connection) {
    connection.Stall();
    gone = true;
  });
  for (const bool waits : {false, true}) {
    if (waits) origin_.Always(Path(), fault::Status(503, {{"Retry-After", "20"}}));
    const size_t before = origin_.request_count(Path());
    std::promise<absl::Status> done;
    const auto read = client().ReadBlobRange(
        Place(), digest_, blob_.size(), {0, 10}, FetchClass::kDemand, time_.Now() + 60s, [](OriginAccess) {},
        [](std::span<const std::byte>) {}, [&](absl::Status status) { done.set_value(std::move(status)); });
    while (origin_.request_count(Path()) == before) std::this_thread::sleep_for(1ms);
    if (waits) std::this_thread::sleep_for(50ms);
    read->Cancel();
    std::future<absl::Status> ended = done.get_future();
    ASSERT_EQ(ended.wait_for(10s), std::future_status::ready);
    EXPECT_TRUE(absl::IsCancelled(ended.get()));
    read->Cancel();
    read->Raise(FetchClass::kDemand);
  }
  const auto patience = std::chrono::steady_clock::now() + 10s;
  while (!gone && std::chrono::steady_clock::now() < patience) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(gone) << "the connection is still open";
  client_.reset();
}

TEST_F(OriginFaultTest, OfRequestsThatWaitTheHigherClassGoesFirstAlsoOnceItIsRaised) {
  HttpClientOptions limits;
  limits.requests_per_host_max = 1;
  HttpClient http(limits);
  std::mutex mutex;
  std::vector<std::string> order;
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  origin_.Always("/first", [&](const FaultRequest&, FaultConnection& connection) {
    released.wait();
    connection.Send(200, {}, "");
  });
  class Sink final : public HttpSink {
   public:
    explicit Sink(std::promise<void>& done) : done_(done) {}
    absl::Status OnHead(const HttpHead&) override { return absl::OkStatus(); }
    absl::Status OnBody(std::span<const std::byte>) override { return absl::OkStatus(); }
    void OnDone(absl::Status) override { done_.set_value(); }

   private:
    std::promise<void>& done_;
  };
  std::deque<std::promise<void>> done;
  const auto send = [&](const std::string& path, FetchClass fetch_class) {
    HttpRequest request;
    request.url = absl::StrCat("http://", origin_.registry(), path);
    request.loopback = LoopbackRule::kAllow;
    request.fetch_class = fetch_class;
    return http.Send(std::move(request), std::make_unique<Sink>(done.emplace_back()));
  };
  for (const char* path : {"/fill", "/hint", "/demand", "/raised"}) {
    origin_.Always(path, [&, path](const FaultRequest&, FaultConnection& connection) {
      {
        const std::lock_guard lock(mutex);
        order.push_back(path);
      }
      connection.Send(200, {}, "");
    });
  }
  send("/first", FetchClass::kBackfill);
  while (origin_.request_count("/first") == 0) std::this_thread::sleep_for(1ms);
  send("/fill", FetchClass::kBackfill);
  const HttpClient::RequestId raised = send("/raised", FetchClass::kBackfill);
  send("/hint", FetchClass::kHint);
  send("/demand", FetchClass::kDemand);
  http.Raise(raised, FetchClass::kReadahead);
  release.set_value();
  for (std::promise<void>& each : done) each.get_future().wait();
  EXPECT_THAT(order, testing::ElementsAre("/demand", "/raised", "/hint", "/fill"));
}

TEST_F(OriginFaultTest, RequestsBeyondAHostsShareWaitAndTheQueueIsBounded) {
  HttpClientOptions limits;
  limits.requests_per_host_max = 1;
  limits.queue_max = 1;
  HttpClient http(limits);
  std::promise<void> arrived;
  std::promise<void> go;
  origin_.Script("/x", {[&](const FaultRequest&, FaultConnection& connection) {
                   arrived.set_value();
                   go.get_future().wait();
                   connection.Send(200, {}, "");
                 }});
  const auto request = [&] {
    HttpRequest r;
    r.url = origin_.Url("/x");
    r.loopback = LoopbackRule::kAllow;
    return r;
  };
  auto first = std::async(std::launch::async, [&] { return SendAndWait(http, request()); });
  arrived.get_future().wait();
  HttpRequest short_wait = request();
  short_wait.timeout = 50ms;
  EXPECT_TRUE(absl::IsDeadlineExceeded(SendAndWait(http, std::move(short_wait))));
  auto second = std::async(std::launch::async, [&] { return SendAndWait(http, request()); });
  // One of these two finds the only place in the queue taken.
  auto third = std::async(std::launch::async, [&] { return SendAndWait(http, request()); });
  while (second.wait_for(1ms) != std::future_status::ready &&
         third.wait_for(1ms) != std::future_status::ready) {
  }
  EXPECT_EQ(origin_.request_count("/x"), 1u);
  go.set_value();
  EXPECT_TRUE(first.get().ok());
  const absl::Status a = second.get();
  const absl::Status b = third.get();
  EXPECT_TRUE(a.ok() != b.ok() && (absl::IsResourceExhausted(a) || absl::IsResourceExhausted(b))) << a << b;
}

// OriginSource: chunks of 64 KiB of a blob with one chunk cut short at its end.
class OriginSourceFaultTest : public OriginFaultTest {
 protected:
  static constexpr uint32_t kChunk = 64 << 10;

  std::shared_ptr<Blob> NewBlob(std::vector<BlobOrigin> origins) {
    return std::make_shared<Blob>(BlobSpec{digest_, blob_.size(), kChunk, std::nullopt, std::move(origins)});
  }
  absl::Status Fetch(const std::shared_ptr<Blob>& blob, ChunkSpan chunks) {
    OriginSource source({client(), ledger_, time_, time_, telemetry_});
    return FetchFrom(source, blob, chunks);
  }
  absl::Status FetchFrom(OriginSource& source, const std::shared_ptr<Blob>& blob, ChunkSpan chunks,
                         FetchClass fetch_class = FetchClass::kDemand) {
    std::promise<absl::Status> done;
    progress_ = std::make_shared<FetchProgress>(time_);
    const FetchHandle handle = source.Fetch(
        {blob, chunks, fetch_class, time_.Now() + deadline_, Asker::kLocal, nullptr, progress_},
        [&](ChunkIndex index, Buffer bytes, SenderId) {
          const auto [it, is_new] = got_.emplace(
              index.value(), std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
          EXPECT_TRUE(is_new) << "chunk " << index.value() << " came twice";
        },
        [&](absl::Status status) { done.set_value(std::move(status)); });
    return done.get_future().get();
  }
  void ExpectChunks(uint32_t first, uint32_t end) {
    EXPECT_EQ(got_.size(), end - first);
    for (uint32_t i = first; i < end; ++i)
      EXPECT_TRUE(got_[i] == blob_.substr(i * size_t{kChunk}, kChunk)) << i;
  }

  ListLedger ledger_;
  Duration deadline_ = 30s;
  std::map<uint32_t, std::string> got_;
  std::shared_ptr<FetchProgress> progress_;  // of the last fetch
};

TEST_F(OriginSourceFaultTest, OneRangedGetPerFetch) {
  EXPECT_TRUE(Fetch(NewBlob({Place()}), {ChunkIndex(3), 5}).ok());
  ExpectChunks(3, 8);
  EXPECT_EQ(origin_.request_count(Path()), 1u);
}

ChunkSpan OfSixteen(const ChunkGeometry& geometry, ChunkIndex chunk) {
  const uint32_t first = chunk.value() / 16 * 16;
  return {ChunkIndex(first), std::min(16u, geometry.chunk_count() - first)};
}

// A stream's next chunks come by the answer that is under way; where other nodes bring parts of it each run
// is asked for by itself, or the registry would send what nobody wants.
TEST_F(OriginSourceFaultTest, ALongStreamComesByOneRequestUnlessOthersBringPartsOfIt) {
  const std::string bytes = Pattern(12 << 20);
  const Digest digest = origin_.AddBlob(kRepository, bytes);
  const std::string path = FaultOrigin::BlobPath(kRepository, digest);
  constexpr uint32_t kRun = (4 << 20) / kChunk;
  for (const bool shares_streams : {false, true}) {
    got_.clear();
    const size_t before = origin_.request_count(path);
    OriginSource source(
        {client(), ledger_, time_, time_, telemetry_, nullptr, shares_streams ? OfSixteen : nullptr});
    const auto blob =
        std::make_shared<Blob>(BlobSpec{digest, bytes.size(), kChunk, std::nullopt, std::vector{Place()}});
    for (uint32_t first = 0; first < 3 * kRun; first += kRun) {
      EXPECT_TRUE(FetchFrom(source, blob, {ChunkIndex(first), kRun}, FetchClass::kReadahead).ok());
      EXPECT_EQ(progress_->goes_on(), first > 0 && !shares_streams);
    }
    for (uint32_t i = 0; i < 3 * kRun; ++i)
      EXPECT_TRUE(got_[i] == bytes.substr(i * size_t{kChunk}, kChunk)) << i;
    EXPECT_EQ(origin_.request_count(path) - before, shares_streams ? 3u : 1u);
    EXPECT_EQ(origin_.requests(path)[before].Header("range"),
              shares_streams ? "bytes=0-4194303" : "bytes=0-12582911");
  }
}

// What a fill asks for chunk by chunk, one after another, costs the registry a request for each part of the
// blob that this node fetches.
TEST_F(OriginSourceFaultTest, AFillComesByOneRequestForEachPartOfTheBlobThatIsThisNodes) {
  const std::string bytes = Pattern((8 << 20) + 5);
  const Digest digest = origin_.AddBlob(kRepository, bytes);
  const std::string path = FaultOrigin::BlobPath(kRepository, digest);
  OriginSource source({client(), ledger_, time_, time_, telemetry_, nullptr, OfSixteen});
  const auto blob =
      std::make_shared<Blob>(BlobSpec{digest, bytes.size(), kChunk, std::nullopt, std::vector{Place()}});
  const uint32_t count = blob->geometry().chunk_count();
  for (uint32_t i = 0; i < count; ++i)
    EXPECT_TRUE(FetchFrom(source, blob, {ChunkIndex(i), 1}, FetchClass::kBackfill).ok());
  for (uint32_t i = 0; i < count; ++i) EXPECT_TRUE(got_[i] == bytes.substr(i * size_t{kChunk}, kChunk)) << i;
  EXPECT_EQ(origin_.request_count(path), (count + 15) / 16);
  EXPECT_EQ(telemetry_.origin_long_reads[static_cast<size_t>(LongReadResult::kPaid)].value(), count / 16);
}

TEST_F(OriginSourceFaultTest, HowTheBlobWasGotIsNotedForTheOriginThatGaveIt) {
  const BlobOrigin empty{origin_.registry(), "team/empty"};
  EXPECT_TRUE(Fetch(NewBlob({empty, Place()}), {ChunkIndex(0), 2}).ok());
  EXPECT_EQ(ledger_.AccessOf(digest_, Place()), OriginAccess::kPublic);
  EXPECT_EQ(ledger_.AccessOf(digest_, empty), OriginAccess::kUnknown);
}

TEST_F(OriginSourceFaultTest, BrokenStreamIsResumedWithTheChunksThatAreLeft) {
  const FaultBehaviour break_off = [&](const FaultRequest& request, FaultConnection& connection) {
    size_t first = 0;
    size_t last = 0;
    ASSERT_EQ(std::sscanf(request.Header("range").c_str(), "bytes=%zu-%zu", &first, &last), 2);
    connection.Send(
        206,
        {{"Content-Range", "bytes " + std::to_string(first) + "-" + std::to_string(last) + "/1048576"},
         {"Content-Length", std::to_string(last - first + 1)}},
        blob_.substr(first, kChunk + 1000));
    connection.CloseAfter();
  };
  origin_.Script(Path(), {break_off, break_off});
  EXPECT_TRUE(Fetch(NewBlob({Place()}), {ChunkIndex(0), 5}).ok());
  ExpectChunks(0, 5);
  EXPECT_EQ(origin_.requests(Path())[2].Header("range"), "bytes=131072-327679");
}

TEST_F(OriginSourceFaultTest, OneThatIsSilentLeavesTimeForTheNext) {
  FaultOrigin silent;
  silent.Always(Path(), [](const FaultRequest&, FaultConnection& connection) { connection.Stall(); });
  deadline_ = 2s;
  EXPECT_TRUE(Fetch(NewBlob({{silent.registry(), kRepository}, Place()}), {ChunkIndex(0), 2}).ok());
  ExpectChunks(0, 2);
}

TEST_F(OriginSourceFaultTest, OneThatGaveWrongBytesOfABlobIsAskedLastForIt) {
  FaultOrigin liar;
  const BlobOrigin lying{liar.registry(), kRepository};
  const std::shared_ptr<Blob> blob = NewBlob({lying, Place()}), other = NewBlob({lying, Place()});
  liar.Always(Path(), fault::Status(500));
  OriginSource source({client(), ledger_, time_, time_, telemetry_});
  source.Judge(TagOf(lying), *blob, ChunkIndex(0), ChunkSource::Verdict::kWrong);
  EXPECT_TRUE(FetchFrom(source, blob, {ChunkIndex(0), 1}).ok());
  EXPECT_EQ(liar.request_count(Path()), 0u);
  // Alone it is asked all the same: who else could be?
  EXPECT_FALSE(FetchFrom(source, NewBlob({lying}), {ChunkIndex(1), 1}).ok());
  EXPECT_GT(liar.request_count(Path()), 0u);
}

TEST_F(OriginSourceFaultTest, NextOriginIsAskedAndTheTellingErrorIsKept) {
  FaultOrigin other;
  other.Always(Path(), fault::Status(403));
  const BlobOrigin denied{other.registry(), kRepository};
  const BlobOrigin absent{origin_.registry(), "team/other"};
  EXPECT_TRUE(Fetch(NewBlob({absent, denied, Place()}), {ChunkIndex(0), 2}).ok());
  ExpectChunks(0, 2);
  EXPECT_TRUE(absl::IsPermissionDenied(Fetch(NewBlob({absent, denied}), {ChunkIndex(0), 2})));
  EXPECT_TRUE(absl::IsNotFound(Fetch(NewBlob({absent}), {ChunkIndex(0), 2})));
  EXPECT_TRUE(absl::IsNotFound(Fetch(NewBlob({}), {ChunkIndex(0), 2})));
}

}  // namespace
}  // namespace sluice::p2p
