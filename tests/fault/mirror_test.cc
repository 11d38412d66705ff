// A node as the mirror of registries: runtimes over raw sockets, an origin that does as it is told.
#include "node/daemon/mirror.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "api/http/mirror_routes.h"
#include "node/daemon/background_fill.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/image_policy.h"
#include "node/daemon/registry_documents.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/pull_grant.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/home_node.h"
#include "tests/fault/token_origin.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using api::RawClient;
using p2p::FaultBehaviour;
using p2p::FaultConnection;
using p2p::FaultOrigin;
using p2p::FaultRequest;
using p2p::TokenOrigin;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
  return bytes;
}

class MirrorTest : public ::testing::Test, protected HomeNode {
 protected:
  void Begin(Mirror::Options options = {}, const std::string& docker_config = "",
             const std::string& allow = "*") {
    Start(docker_config, allow);
    fills_ = std::make_unique<BackgroundFill>(clock_, *core_, *cache_, BackgroundFill::Limits{});
    from_registry_ = std::make_unique<RegistryDocuments>(clock_, *io_, *registry_, Duration(0));
    images_ = std::make_unique<ImageDocuments>(*from_registry_, nullptr, ImageDocuments::Tags::kFromRegistry);
    mirror_ = std::make_shared<Mirror>(Mirror::Parts{{clock_, *io_, *store_, *cache_, *fills_, telemetry_},
                                                     *allowed_,
                                                     *registry_,
                                                     *images_,
                                                     *manifests_,
                                                     policy_.get()},
                                       options);
    api::HttpRoutes routes;
    api::AddMirrorRoutes(routes, *mirror_, telemetry_);
    mirror_server_ = std::make_unique<api::HttpServer>(std::move(routes), api::HttpLimits{});
    ASSERT_TRUE(mirror_server_->Start("127.0.0.1:0").ok());
  }
  void TearDown() override { End(); }
  void End() {
    mirror_server_.reset();
    fills_.reset();
    Stop();
    if (policy_) policy_->Stop();
    mirror_.reset();
    images_.reset();
    from_registry_.reset();
  }

  std::unique_ptr<RawClient> Send(const std::string& path, const std::string& more = "",
                                  const std::string& method = "GET") {
    auto client = std::make_unique<RawClient>(mirror_server_->port());
    client->Send(api::Request(method, path, absl::StrCat(more, api::kClose)));
    return client;
  }
  static int StatusOf(const std::string& raw) { return std::atoi(raw.c_str() + sizeof("HTTP/1.1")); }
  static std::string BodyOf(const std::string& raw) { return raw.substr(raw.find("\r\n\r\n") + 4); }
  std::string Ask(const std::string& path, const std::string& more = "") {
    return Send(path, more)->ReadAll();
  }
  static std::string Path(const BlobOrigin& origin, const std::string& kind, const std::string& reference) {
    return absl::StrCat("/v2/", origin.repository, "/", kind, "/", reference, "?ns=", origin.registry);
  }
  uint64_t ResultCount(MirrorResult result) const {
    return telemetry_.mirror_requests[static_cast<size_t>(result)].value();
  }
  static std::string Bearer(const std::string& token) {
    return absl::StrCat("Authorization: Bearer ", token, "\r\n");
  }

  std::shared_ptr<ImagePolicy> policy_;  // null: every image may be had
  std::unique_ptr<BackgroundFill> fills_;
  std::unique_ptr<RegistryDocuments> from_registry_;
  std::unique_ptr<ImageDocuments> images_;
  std::shared_ptr<Mirror> mirror_;
  std::unique_ptr<api::HttpServer> mirror_server_;
};

// -------------------------------------------------------------------------------------------- public images

class PublicMirrorTest : public MirrorTest {
 protected:
  std::string BlobPath() const { return Path(place_, "blobs", digest_.ToString()); }
  std::string OriginPath() const { return FaultOrigin::BlobPath(place_.repository, digest_); }
  size_t RangesAsked() const {
    size_t count = 0;
    for (const FaultRequest& request : origin_.requests(OriginPath())) count += request.method == "GET";
    return count;
  }
  // As the rules have it, but what does not begin at the blob's first byte only once `gate` is set.
  FaultBehaviour FirstBytesThen(std::shared_future<void> gate) {
    return [this, gate](const FaultRequest& request, FaultConnection& to) {
      if (request.method == "GET" && !request.Header("range").starts_with("bytes=0-")) gate.wait();
      origin_.ServeByTheRules(request, to);
    };
  }

  FaultOrigin origin_;
  const BlobOrigin place_{origin_.registry(), "library/app"};
  const std::string bytes_ = Pattern(20 << 20);
  const Digest digest_ = origin_.AddBlob(place_.repository, bytes_);
};

TEST_F(PublicMirrorTest, ABlobIsFetchedOnceAndKept) {
  Begin();
  const std::string first = Ask(BlobPath());
  EXPECT_EQ(StatusOf(first), 200);
  EXPECT_TRUE(BodyOf(first) == bytes_);
  const size_t asked = RangesAsked();
  const std::string again = Ask(BlobPath());
  EXPECT_TRUE(BodyOf(again) == bytes_);
  EXPECT_EQ(RangesAsked(), asked);
  const std::string part = Ask(BlobPath(), "Range: bytes=1000000-3000000\r\n");
  EXPECT_EQ(StatusOf(part), 206);
  EXPECT_TRUE(BodyOf(part) == bytes_.substr(1000000, 2000001));
  EXPECT_EQ(RangesAsked(), asked);
}

TEST_F(PublicMirrorTest, ItsFirstBytesAreSentWhileTheRestIsToCome) {
  std::promise<void> gate;
  origin_.Always(OriginPath(), FirstBytesThen(gate.get_future().share()));
  Begin();
  const std::unique_ptr<RawClient> client = Send(BlobPath());
  EXPECT_THAT(client->ReadThrough("\r\n\r\n"), HasSubstr("200 OK"));
  EXPECT_TRUE(client->ReadBytes(256 << 10) == bytes_.substr(0, 256 << 10));
  gate.set_value();
  EXPECT_TRUE(client->ReadAll() == bytes_.substr(256 << 10));
}

TEST_F(PublicMirrorTest, AnOriginThatLiesInMidBlobEndsTheAnswerShort) {
  origin_.Always(OriginPath(), [this](const FaultRequest& request, FaultConnection& to) {
    if (request.method == "GET" && !request.Header("range").starts_with("bytes=0-"))
      return to.Send(416, {}, "");
    origin_.ServeByTheRules(request, to);
  });
  Begin();
  const std::string answer = Ask(BlobPath());
  EXPECT_EQ(StatusOf(answer), 200);
  const std::string body = BodyOf(answer);
  EXPECT_LT(body.size(), bytes_.size());
  EXPECT_TRUE(body == bytes_.substr(0, body.size()));
}

TEST_F(PublicMirrorTest, ARuntimeIsSentToTheRegistryInTime) {
  const auto stall = [](const FaultRequest&, FaultConnection& to) { to.Stall(); };
  origin_.Always(OriginPath(), stall);
  origin_.AddManifest(place_.repository, "v1", std::string(p2p::media_type::kOciManifest), "{}");
  origin_.Always(FaultOrigin::ManifestPath(place_.repository, "v1"), stall);
  Begin({.budget = 200ms});
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 404);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 404);
}

TEST_F(PublicMirrorTest, ABlobWhoseBytesStallIsLeftToTheRegistryToo) {
  origin_.Always(OriginPath(), [this](const FaultRequest& request, FaultConnection& to) {
    if (request.method == "GET") return to.Stall();
    origin_.ServeByTheRules(request, to);
  });
  Begin({.budget = 200ms});
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 404);
}

TEST_F(PublicMirrorTest, WhatIsNotAllowedIsAskedOfNobody) {
  Begin({}, "", "elsewhere.example/*");
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 404);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 404);
  EXPECT_THAT(origin_.requests(OriginPath()), IsEmpty());
  EXPECT_EQ(origin_.connection_count(), 0u);
}

TEST_F(PublicMirrorTest, ATagThatMovesMeansWhatItMeansNow) {
  const std::string type(p2p::media_type::kOciManifest);
  for (const std::string body : {"{}", "{\"x\":1}", "{}"}) {
    origin_.AddManifest(place_.repository, "v1", type, body);
    if (!mirror_) Begin();
    EXPECT_EQ(BodyOf(Ask(Path(place_, "manifests", "v1"))), body);
  }
}

TEST_F(PublicMirrorTest, WhatIsTooLargeIsLeftToTheRegistry) {
  origin_.AddManifest(place_.repository, "v1", std::string(p2p::media_type::kOciManifest),
                      std::string(p2p::kManifestBytesMax + 1, ' '));
  const Digest huge = p2p::Sha256::Of("huge");
  origin_.Always(FaultOrigin::BlobPath(place_.repository, huge),
                 [](const FaultRequest&, FaultConnection& to) {
                   to.SendHead(200, {{"Content-Length", absl::StrCat(uint64_t{1} << 60)}});
                 });
  Begin();
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 503)
      << "over a bound, as what is too much at once";
  EXPECT_EQ(StatusOf(Ask(Path(place_, "blobs", huge.ToString()))), 404);
}

TEST_F(PublicMirrorTest, ABlobThatTheStoreCannotHoldIsLeftToTheRegistry) {
  Begin();
  telemetry_.cache_capacity_bytes.Set(static_cast<int64_t>(bytes_.size()) - 1);
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 404);
  EXPECT_EQ(RangesAsked(), 0u);
  EXPECT_THAT(store_->KeysOf(digest_), IsEmpty());
  telemetry_.cache_capacity_bytes.Set(static_cast<int64_t>(bytes_.size()));
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 200);
}

TEST_F(PublicMirrorTest, WhatEverybodyIsToldIsNotThereIsAskedForOnce) {
  const Digest nowhere = p2p::Sha256::Of("nowhere");
  Begin();
  EXPECT_EQ(StatusOf(Ask(Path(place_, "blobs", nowhere.ToString()))), 404);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v2"), "Authorization: Basic theirs\r\n")), 404);
  EXPECT_THAT(origin_.requests(FaultOrigin::BlobPath(place_.repository, nowhere)), SizeIs(1));
  EXPECT_THAT(origin_.requests(FaultOrigin::ManifestPath(place_.repository, "v2")), SizeIs(1));
}

TEST_F(PublicMirrorTest, ATagMayBeOldOnlyWhereThatIsWanted) {
  const Digest manifest =
      origin_.AddManifest(place_.repository, "v1", std::string(p2p::media_type::kOciManifest), "{}");
  const std::string tag_path = FaultOrigin::ManifestPath(place_.repository, "v1");
  Begin();
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 200);
  origin_.Always(tag_path, p2p::fault::Hangup());
  origin_.Always(FaultOrigin::ManifestPath(place_.repository, manifest.ToString()), p2p::fault::Hangup());
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 404);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", manifest.ToString()))), 200) << "by digest it is here";
  End();
  Begin({.stale_tags = Mirror::StaleTags::kYes});
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 200);
  origin_.Always(tag_path, p2p::fault::Status(404));
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 404) << "the registry says that it is gone";
}

// An image that strangers get, and the node's time of day.
class PublicImageMirrorTest : public PublicMirrorTest {
 protected:
  // A node that starts so much later, with all that the one before it had.
  void BeginAfter(Duration passed) {
    End();
    passed_ += passed;
    Begin({.budget = 5s, .public_ttl = 24h, .wall_clock_ms = [this] {
             return SystemWallClockMs() +
                    std::chrono::duration_cast<std::chrono::milliseconds>(passed_).count();
           }});
  }
  void GoAway() {
    for (const std::string& path : OriginPaths()) origin_.Always(path, p2p::fault::Hangup());
  }
  void ComeBack() {
    for (const std::string& path : OriginPaths())
      origin_.Always(path, [this](const FaultRequest& request, FaultConnection& to) {
        origin_.ServeByTheRules(request, to);
      });
  }
  std::string ManifestPath() const { return Path(place_, "manifests", manifest_.ToString()); }

  const Digest manifest_ = origin_.AddManifest(
      place_.repository, "v1", std::string(p2p::media_type::kOciManifest),
      absl::StrCat(
          R"({"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":")",
          digest_.ToString(), R"(","size":)", bytes_.size(), R"(},"layers":[]})"));

 private:
  std::vector<std::string> OriginPaths() const {
    return {OriginPath(), FaultOrigin::ManifestPath(place_.repository, "v1"),
            FaultOrigin::ManifestPath(place_.repository, manifest_.ToString())};
  }

  Duration passed_{};
};

TEST_F(PublicImageMirrorTest, IsGivenWhileTheRegistryIsAwayUntilItsTimeIsOver) {
  BeginAfter(0s);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 200);
  EXPECT_TRUE(BodyOf(Ask(BlobPath())) == bytes_);
  GoAway();
  BeginAfter(23h + 59min);
  EXPECT_EQ(StatusOf(Ask(ManifestPath())), 200);
  EXPECT_TRUE(BodyOf(Ask(BlobPath())) == bytes_);
  BeginAfter(2min);
  for (const std::string& path : {ManifestPath(), BlobPath()}) {
    const std::string late = Ask(path);
    EXPECT_EQ(StatusOf(late), 503) << "giving it has renewed nothing";
    EXPECT_THAT(late, HasSubstr("the registry does not answer"));
  }
  EXPECT_EQ(ResultCount(MirrorResult::kBusy), 2u);
  // Once the registry has said again that it is for all, that holds for as long again, and over a restart.
  ComeBack();
  const size_t asked = RangesAsked();
  EXPECT_EQ(StatusOf(Ask(ManifestPath())), 200);
  EXPECT_TRUE(BodyOf(Ask(BlobPath())) == bytes_);
  EXPECT_EQ(RangesAsked(), asked) << "but the bytes are here";
  GoAway();
  BeginAfter(23h);
  EXPECT_EQ(StatusOf(Ask(ManifestPath())), 200);
  EXPECT_TRUE(BodyOf(Ask(BlobPath())) == bytes_);
}

// One program, which lets everything pass once a file is there.
TEST_F(PublicImageMirrorTest, WithAPolicyBlobsAreGivenOfWhatItLetPassAlone) {
  const index::TempDir programs, elsewhere;
  const std::string passes = elsewhere.path() + "/passes";
  const std::string program = programs.path() + "/verifier";
  std::ofstream(program) << "#!/bin/sh\ncat >/dev/null\ntest -e " << passes << "\n";
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  ImageCounters counters;
  policy_ = *ImagePolicy::Open({.folder = programs.path()}, clock_, counters);
  Begin();
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 404) << "nobody was asked of an image that has it";
  EXPECT_EQ(StatusOf(Ask(ManifestPath())), 403);
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 404);
  EXPECT_THAT(origin_.requests(OriginPath()), IsEmpty());
  std::ofstream(passes).put('\n');
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 200);
  EXPECT_TRUE(BodyOf(Ask(BlobPath())) == bytes_);
}

TEST_F(PublicImageMirrorTest, WhatIsForAllNoMoreIsFoundOutWhenItsTimeIsOver) {
  BeginAfter(0s);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v1"))), 200);
  EXPECT_TRUE(BodyOf(Ask(BlobPath())) == bytes_);
  const std::string challenge = "Basic realm=\"r\"";
  const auto closed = [&](const FaultRequest& request, FaultConnection& to) {
    if (request.Header("authorization") == "Basic ours") return origin_.ServeByTheRules(request, to);
    to.Send(401, {{"WWW-Authenticate", challenge}}, "");
  };
  origin_.Always(OriginPath(), closed);
  origin_.Always(FaultOrigin::ManifestPath(place_.repository, manifest_.ToString()), closed);
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 200) << "it was found out just now";
  BeginAfter(25h);
  for (const std::string& path : {ManifestPath(), BlobPath()}) {
    EXPECT_EQ(StatusOf(Ask(path, "Authorization: Basic theirs\r\n")), 401);
    EXPECT_EQ(StatusOf(Ask(path, "Authorization: Basic ours\r\n")), 200);
    EXPECT_EQ(StatusOf(Ask(path, "Authorization: Basic theirs\r\n")), 401) << "that was no finding for all";
  }
}

TEST_F(PublicMirrorTest, WhoGoesInMidBlobHoldsNothingUp) {
  std::promise<void> gate;
  origin_.Always(OriginPath(), FirstBytesThen(gate.get_future().share()));
  Begin();
  {
    const std::unique_ptr<RawClient> client = Send(BlobPath());
    client->ReadThrough("\r\n\r\n");
    client->ReadBytes(1);
  }
  gate.set_value();
  EXPECT_TRUE(BodyOf(Ask(BlobPath())) == bytes_);
}

// ------------------------------------------------------------------------------------------- private images

class PrivateMirrorTest : public MirrorTest {
 protected:
  void SetUp() override { registry_of_team_.WriteDockerConfig(config_); }
  std::string BlobPath() const { return Path(place_, "blobs", digest_.ToString()); }
  std::string TagPath() const { return Path(place_, "manifests", "v1"); }
  std::string OriginPath() const { return FaultOrigin::BlobPath(TokenOrigin::kRepository, digest_); }
  // Requests for the blob's bytes that the registry answered.
  size_t BytesAsked() const {
    size_t count = 0;
    for (const FaultRequest& request : registry_of_team_.origin.requests(OriginPath()))
      count += request.method == "GET" && !request.Header("authorization").empty();
    return count;
  }

  index::TempDir folder_;
  const std::string config_ = folder_.path() + "/docker.json";
  TokenOrigin registry_of_team_;
  const BlobOrigin place_ = registry_of_team_.place();
  const std::string bytes_ = Pattern(300000);
  const Digest digest_ = registry_of_team_.AddBlob(bytes_);
  const Digest manifest_ =
      registry_of_team_.AddManifest("v1", std::string(p2p::media_type::kOciManifest), "{\"x\":1}");
};

TEST_F(PrivateMirrorTest, IsForThoseWhomTheRegistryLetsHaveIt) {
  Begin({}, config_);
  for (const std::string& path : {TagPath(), BlobPath()}) {
    const std::string token = registry_of_team_.Issue();
    const std::string stranger = Ask(path, Bearer("nobody's"));
    EXPECT_EQ(StatusOf(stranger), 401);
    EXPECT_THAT(stranger, HasSubstr("WWW-Authenticate: Bearer realm="));
    EXPECT_EQ(StatusOf(Ask(path, Bearer(token))), 200);
    EXPECT_EQ(Ask(path, Bearer("nobody's")), stranger) << "the same although it is here now";
    // What the registry let one have holds for minutes.
    registry_of_team_.Revoke(token);
    EXPECT_EQ(StatusOf(Ask(path, Bearer(token))), 200);
    EXPECT_EQ(StatusOf(Ask(path, Bearer(absl::StrCat(token, "x")))), 401);
  }
}

TEST_F(PrivateMirrorTest, WhoShowsNothingIsChallengedOnceAndThenSentToTheRegistry) {
  Begin({}, config_);
  EXPECT_EQ(StatusOf(Ask(TagPath())), 401);
  EXPECT_EQ(StatusOf(Ask(TagPath())), 404);
  EXPECT_EQ(StatusOf(Ask(BlobPath())), 404);
  EXPECT_EQ(telemetry_.mirror_requests[static_cast<size_t>(MirrorResult::kNoCredentials)].value(), 2u);
  // Whoever has some is not among them, and then the next is challenged again.
  EXPECT_EQ(StatusOf(Ask(TagPath(), Bearer(registry_of_team_.Issue()))), 200);
  EXPECT_EQ(StatusOf(Ask(TagPath())), 401);
}

TEST_F(PrivateMirrorTest, ANodeWithoutARightFetchesByTheRightOfWhoAsks) {
  Begin();
  for (const std::string& path : {TagPath(), BlobPath()}) {
    const std::string stranger = Ask(path, Bearer("nobody's"));
    EXPECT_EQ(StatusOf(stranger), 401);
    const std::string own = Bearer(registry_of_team_.Issue());
    EXPECT_EQ(StatusOf(Ask(path, own)), 200);
    EXPECT_EQ(Ask(path, Bearer("nobody's")), stranger) << "the same although it is here now";
    // Whoever else may have it gets it, too.
    EXPECT_EQ(StatusOf(Ask(path, Bearer(registry_of_team_.Issue()))), 200);
  }
  EXPECT_TRUE(BodyOf(Ask(BlobPath(), Bearer(registry_of_team_.Issue()))) == bytes_);
  EXPECT_EQ(BytesAsked(), 1u) << "the bytes are fetched once for all";
  EXPECT_EQ(store_->AccessOf(store_->KeysOf(digest_).front(), place_), OriginAccess::kCredentials);
}

TEST_F(PrivateMirrorTest, WhatOneGotByHisRightIsNoManifestOfTheNodes) {
  Begin();
  const std::string own = Bearer(registry_of_team_.Issue());
  EXPECT_EQ(StatusOf(Ask(TagPath(), own)), 200);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", manifest_.ToString()), own)), 200);
  EXPECT_TRUE(absl::IsNotFound(manifests_->Get({place_, "", manifest_}).status()));
  EXPECT_TRUE(absl::IsNotFound(manifests_->Get({place_, "v1", std::nullopt}).status()));
}

TEST_F(PrivateMirrorTest, ByTheirRightSomethingThatIsNowhereIsNowhere) {
  Begin();
  const Digest nowhere = p2p::Sha256::Of("nowhere");
  registry_of_team_.Guard(FaultOrigin::BlobPath(TokenOrigin::kRepository, nowhere));
  registry_of_team_.Guard(FaultOrigin::ManifestPath(TokenOrigin::kRepository, "v2"));
  registry_of_team_.origin.Always(
      absl::StrCat("/v2/", TokenOrigin::kRepository, "/referrers/", manifest_.ToString()),
      [](const FaultRequest& request, FaultConnection& to) {
        if (request.Header("authorization").empty()) return to.Send(401, {}, "");
        to.Send(200, {{"Content-Type", std::string(p2p::media_type::kOciIndex)}},
                R"({"schemaVersion":2,"manifests":[]})");
      });
  const std::string own = Bearer(registry_of_team_.Issue());
  EXPECT_EQ(StatusOf(Ask(Path(place_, "blobs", nowhere.ToString()), own)), 404);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "manifests", "v2"), own)), 404);
  EXPECT_EQ(StatusOf(Ask(Path(place_, "referrers", manifest_.ToString()), own)), 200);
}

// Without the password the node itself gets nothing; `Basic` is what the registry wants.
TEST_F(PrivateMirrorTest, ANameAndPasswordAreARightToo) {
  Begin();
  const std::string pair = absl::Base64Escape(absl::StrCat("user:", TokenOrigin::kPassword));
  const std::string basic = absl::StrCat("Authorization: Basic ", pair, "\r\n");
  const auto closed = [this, pair](const FaultRequest& request, FaultConnection& to) {
    if (request.Header("authorization") == absl::StrCat("Basic ", pair))
      return registry_of_team_.origin.ServeByTheRules(request, to);
    to.Send(401, {{"WWW-Authenticate", "Basic realm=\"r\""}}, "");
  };
  registry_of_team_.origin.Always(FaultOrigin::ManifestPath(TokenOrigin::kRepository, "v1"), closed);
  registry_of_team_.origin.Always(OriginPath(), closed);
  EXPECT_EQ(StatusOf(Ask(TagPath(), basic)), 200);
  EXPECT_TRUE(BodyOf(Ask(BlobPath(), basic)) == bytes_);
  EXPECT_EQ(StatusOf(Ask(BlobPath(), "Authorization: Basic dXNlcjp3cm9uZw==\r\n")), 401);
  EXPECT_EQ(StatusOf(Ask(BlobPath(), "Authorization: Negotiate x\r\n")), 401);
}

TEST_F(PrivateMirrorTest, ATokenThatEndsInMidBlobIsAskedForAnew) {
  const std::string bytes = Pattern(20 << 20);
  const Digest digest = registry_of_team_.AddBlob(bytes);
  const std::string token = registry_of_team_.Issue();
  std::promise<void> gate;
  registry_of_team_.origin.Always(
      FaultOrigin::BlobPath(TokenOrigin::kRepository, digest),
      [this, opened = gate.get_future().share()](const FaultRequest& request, FaultConnection& to) {
        if (request.method == "GET" && !request.Header("range").starts_with("bytes=0-")) opened.wait();
        registry_of_team_.Gate(request, to, TokenOrigin::Scope());
      });
  Begin();
  const std::string path = Path(place_, "blobs", digest.ToString());
  {
    const std::unique_ptr<RawClient> client = Send(path, Bearer(token));
    EXPECT_THAT(client->ReadThrough("\r\n\r\n"), HasSubstr("200 OK"));
    registry_of_team_.Revoke(token);
    gate.set_value();
    EXPECT_LT(client->ReadAll().size(), bytes.size());
  }
  // What the registry said of it is over, though its minutes are not.
  const std::string rest = "Range: bytes=10000000-\r\n";
  const std::string refused = Ask(path, Bearer(token) + rest);
  EXPECT_EQ(StatusOf(refused), 401);
  EXPECT_THAT(refused, HasSubstr("WWW-Authenticate: Bearer realm="));
  EXPECT_TRUE(BodyOf(Ask(path, Bearer(registry_of_team_.Issue()) + rest)) == bytes.substr(10000000));
}

// A registry whose blobs lie elsewhere; it may lead everybody there who asks.
TEST_F(PrivateMirrorTest, ARegistryThatLeadsStrangersElsewhereHasNotGivenThemAnything) {
  const std::string elsewhere = "/elsewhere";
  registry_of_team_.origin.Always(elsewhere, [this](const FaultRequest&, FaultConnection& to) {
    to.Send(200, {{"Content-Type", "application/octet-stream"}}, bytes_);
  });
  const auto lead = [&](bool strangers) {
    return [this, elsewhere, strangers](const FaultRequest& request, FaultConnection& to) {
      if (strangers || !request.Header("authorization").empty())
        return to.Send(307, {{"Location", registry_of_team_.origin.Url(elsewhere)}}, "");
      to.Send(401, {{"WWW-Authenticate", "Basic realm=\"r\""}}, "");
    };
  };
  Begin({}, config_);
  const auto give = [&](const std::string& shown) {
    std::promise<p2p::RegistryClient::TenantAnswer> said;
    registry_->AskAs(shown, place_, p2p::RegistryClient::Object::kBlob, digest_.ToString(), 10s,
                     [&](auto answer) { said.set_value(*std::move(answer)); });
    return said.get_future().get().verdict;
  };
  using Verdict = p2p::RegistryClient::TenantAnswer::Verdict;
  registry_of_team_.origin.Always(OriginPath(), lead(/*strangers=*/false));
  EXPECT_EQ(give("Basic dXNlcjpw"), Verdict::kGiven);
  EXPECT_EQ(give(""), Verdict::kChallenged);
  registry_of_team_.origin.Always(OriginPath(), lead(/*strangers=*/true));
  EXPECT_EQ(give("Basic dXNlcjpw"), Verdict::kAbsent);
  EXPECT_EQ(give(""), Verdict::kAbsent);
}

// Which of the tokens that a runtime shows may go to other nodes: those that can't be anything but narrow.
TEST_F(PrivateMirrorTest, OnlyATokenThatSaysThatItIsNarrowIsShownToMembers) {
  Begin();
  const auto shown = [&](const std::string& authorization) {
    const Grant right = registry_->RightOfTenant(authorization, place_);
    return right ? p2p::PullGrant::TokenForMembers(right) : "no right";
  };
  const std::string pull =
      TokenOrigin::Speaking(R"({"type":"repository","name":"team/app","actions":["pull"]})");
  EXPECT_EQ(shown(absl::StrCat("Bearer ", pull)), pull);
  EXPECT_EQ(shown(absl::StrCat("bearer ", pull)), pull);
  for (const std::string& wider :
       {std::string(R"({"type":"repository","name":"team/app","actions":["pull","push"]})"),
        std::string(R"({"type":"repository","name":"team/other","actions":["pull"]})"), std::string()}) {
    EXPECT_EQ(shown(absl::StrCat("Bearer ", TokenOrigin::Speaking(wider))), "") << wider;
  }
  EXPECT_EQ(shown("Bearer a-password-perhaps"), "");
  EXPECT_EQ(shown("Basic dXNlcjpw"), "");
  for (const std::string none : {"", "Bearer ", "Basic !", "Basic dXNlcg==", "Negotiate x"})
    EXPECT_EQ(shown(none), "no right") << none;
}

TEST_F(PrivateMirrorTest, ADigestIsOnlyInTheRepositoryThatHasIt) {
  Begin({}, config_);
  EXPECT_EQ(StatusOf(Ask(BlobPath(), Bearer(registry_of_team_.Issue()))), 200);
  // Another repository of the registry is open to all, and has no such blob.
  const BlobOrigin other{place_.registry, "public/other"};
  const std::string other_path = FaultOrigin::BlobPath(other.repository, digest_);
  registry_of_team_.origin.Always(other_path, p2p::fault::Status(404));
  EXPECT_EQ(StatusOf(Ask(Path(other, "blobs", digest_.ToString()))), 404);
  EXPECT_EQ(StatusOf(Ask(Path(other, "blobs", digest_.ToString()), Bearer(registry_of_team_.Issue()))), 404);
}

TEST_F(PrivateMirrorTest, WhileTheRegistryIsAwayNobodyNewGetsIt) {
  Begin({.budget = 2s}, config_);
  const std::string token = registry_of_team_.Issue();
  EXPECT_EQ(StatusOf(Ask(BlobPath(), Bearer(token))), 200);
  registry_of_team_.origin.Always(FaultOrigin::BlobPath(place_.repository, digest_), p2p::fault::Hangup());
  EXPECT_EQ(StatusOf(Ask(BlobPath(), Bearer(token))), 200);
  const std::string refused = Ask(BlobPath(), Bearer(registry_of_team_.Issue()));
  EXPECT_EQ(StatusOf(refused), 503);
  EXPECT_THAT(refused, HasSubstr("the registry does not answer"));
  EXPECT_EQ(ResultCount(MirrorResult::kBusy), 1u);
  // It is the same of what is not here, by whoever asks.
  const Digest elsewhere = p2p::Sha256::Of("not here");
  registry_of_team_.origin.Always(FaultOrigin::BlobPath(place_.repository, elsewhere), p2p::fault::Hangup());
  EXPECT_EQ(Ask(Path(place_, "blobs", elsewhere.ToString()), Bearer(registry_of_team_.Issue())), refused);
}

// Those of the image that are there, and others that are nowhere; the registry says neither to strangers.
class HiddenMirrorTest : public PrivateMirrorTest {
 protected:
  void SetUp() override {
    PrivateMirrorTest::SetUp();
    const std::string here = manifest_.ToString(), nowhere = nowhere_.ToString();
    paths_ = {{TagPath(), Path(place_, "manifests", "v2")},
              {Path(place_, "manifests", here), Path(place_, "manifests", nowhere)},
              {Path(place_, "referrers", here), Path(place_, "referrers", nowhere)},
              {BlobPath(), Path(place_, "blobs", nowhere)}};
    const std::string repository = TokenOrigin::kRepository;
    for (const std::string& reference : {std::string("v2"), nowhere})
      registry_of_team_.Guard(FaultOrigin::ManifestPath(repository, reference));
    for (const std::string& reference : {here, nowhere})
      registry_of_team_.Guard(absl::StrCat("/v2/", repository, "/referrers/", reference));
    registry_of_team_.Guard(FaultOrigin::BlobPath(repository, nowhere_));
  }
  // Another node, which has what the one before it had and knows nothing of the registry.
  void BeginAnew(Mirror::Options options = {}) {
    if (mirror_) End();
    Begin(options, config_);
  }
  size_t RequestCount() const {
    size_t count = 0;
    for (const auto& [here, nowhere] : paths_)
      for (const std::string& path : {here, nowhere})
        count += registry_of_team_.origin.request_count(path.substr(0, path.find('?')));
    return count;
  }

  const Digest nowhere_ = p2p::Sha256::Of("nowhere");
  std::vector<std::pair<std::string, std::string>> paths_;
};

TEST_F(HiddenMirrorTest, AStrangerCannotTellWhatIsThereFromWhatIsNowhere) {
  for (const auto& [here, nowhere] : paths_) {
    BeginAnew();
    const std::string of_here = Ask(here, Bearer("nobody's"));
    EXPECT_EQ(StatusOf(of_here), 401) << here;
    BeginAnew();
    EXPECT_EQ(Ask(nowhere, Bearer("nobody's")), of_here) << nowhere;
    EXPECT_EQ(Ask(here, Bearer("nobody's")), of_here);
    // He who may see it hears the truth.
    EXPECT_EQ(StatusOf(Ask(here, Bearer(registry_of_team_.Issue()))), 200) << here;
    EXPECT_EQ(StatusOf(Ask(nowhere, Bearer(registry_of_team_.Issue()))), 404) << nowhere;
    EXPECT_EQ(Ask(here, Bearer("nobody's")), of_here) << "the same although it is here now";
    EXPECT_EQ(Ask(nowhere, Bearer("nobody's")), of_here);
  }
}

TEST_F(HiddenMirrorTest, WhatIsHereIsLookedForOnlyForWhoMayHaveIt) {
  BeginAnew();
  EXPECT_EQ(StatusOf(Ask(TagPath(), Bearer(registry_of_team_.Issue()))), 200);
  EXPECT_EQ(StatusOf(Ask(BlobPath(), Bearer(registry_of_team_.Issue()))), 200);
  for (const auto& [here, nowhere] : paths_) {
    for (const std::string& path : {here, nowhere}) {
      const size_t before = RequestCount();
      EXPECT_EQ(StatusOf(Ask(path, Bearer("nobody's"))), 401) << path;
      EXPECT_EQ(RequestCount(), before + 1)
          << "the registry is asked what it gives to him, and no more: " << path;
    }
  }
}

TEST_F(HiddenMirrorTest, WhileTheRegistryIsAwayATagThatIsKeptLooksAsOneThatIsNot) {
  BeginAnew();
  EXPECT_EQ(StatusOf(Ask(TagPath(), Bearer(registry_of_team_.Issue()))), 200);
  for (const std::string name : {"v1", "v2"})
    registry_of_team_.origin.Always(FaultOrigin::ManifestPath(TokenOrigin::kRepository, name),
                                    p2p::fault::Hangup());
  const auto& [here, nowhere] = paths_.front();
  for (const auto stale : {Mirror::StaleTags::kNo, Mirror::StaleTags::kYes}) {
    BeginAnew({.stale_tags = stale});
    const std::string of_here = Ask(here, Bearer("nobody's"));
    EXPECT_EQ(StatusOf(of_here), stale == Mirror::StaleTags::kYes ? 503 : 404);
    BeginAnew({.stale_tags = stale});
    EXPECT_EQ(Ask(nowhere, Bearer("nobody's")), of_here);
  }
}

TEST_F(PrivateMirrorTest, AnOpenMirrorAsksNobodyWhoHeIs) {
  Begin({.authorization = Mirror::Authorization::kOpen}, config_);
  EXPECT_EQ(StatusOf(Ask(TagPath())), 200);
  EXPECT_TRUE(BodyOf(Ask(BlobPath())) == bytes_);
  // Nor is it given by the name of a repository that has it not, though it is here whole and hashed.
  for (const Instant end = clock_.Now() + 60s; !store_->IsSettled(digest_) && clock_.Now() < end;)
    std::this_thread::sleep_for(1ms);
  ASSERT_TRUE(store_->IsSettled(digest_));
  const BlobOrigin other{place_.registry, "public/other"};
  registry_of_team_.origin.Always(FaultOrigin::BlobPath(other.repository, digest_), p2p::fault::Status(404));
  EXPECT_EQ(StatusOf(Ask(Path(other, "blobs", digest_.ToString()))), 404);
}

// What the registry said of a tenant, at times that the test says.
class MirrorTenantsTest : public PrivateMirrorTest {
 protected:
  using Refusal = std::optional<api::MirrorRefusal>;
  void SetUp() override {
    PrivateMirrorTest::SetUp();
    Begin({}, config_);
    tenants_ = std::make_unique<MirrorTenants>(time_, *registry_, telemetry_);
  }
  Refusal AskAs(const std::string& authorization) {
    std::promise<Refusal> answer;
    tenants_->Ask({api::MirrorRequest::Kind::kBlob, place_, digest_.ToString(), authorization}, 10s,
                  [&](Refusal refusal) { answer.set_value(std::move(refusal)); });
    return answer.get_future().get();
  }
  void GoAway() {
    registry_of_team_.origin.Always(FaultOrigin::BlobPath(place_.repository, digest_), p2p::fault::Hangup());
  }

  fakes::FakeClock time_;
  std::unique_ptr<MirrorTenants> tenants_;
};

TEST_F(MirrorTenantsTest, WhatTheRegistryLetsOneHaveHoldsForFiveMinutes) {
  const std::string own = absl::StrCat("Bearer ", registry_of_team_.Issue());
  EXPECT_FALSE(AskAs(own));
  GoAway();
  time_.now += MirrorTenants::kGivenTtl - 1s;
  EXPECT_FALSE(AskAs(own));
  time_.now += 1s;
  const Refusal refusal = AskAs(own);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->why, api::MirrorRefusal::Why::kOriginAway);
}

TEST_F(MirrorTenantsTest, WhoIsLetInNoMoreIsOutAfterFiveMinutes) {
  const std::string token = registry_of_team_.Issue();
  EXPECT_FALSE(AskAs(absl::StrCat("Bearer ", token)));
  registry_of_team_.Revoke(token);
  time_.now += MirrorTenants::kGivenTtl;
  const Refusal refusal = AskAs(absl::StrCat("Bearer ", token));
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->why, api::MirrorRefusal::Why::kChallenged);
  EXPECT_THAT(refusal->challenge, HasSubstr("Bearer realm="));
}

TEST_F(MirrorTenantsTest, WhoShowsNothingIsChallengedAgainAfterAMinute) {
  EXPECT_EQ(AskAs("")->why, api::MirrorRefusal::Why::kChallenged);
  EXPECT_EQ(AskAs("")->why, api::MirrorRefusal::Why::kAbsent);
  time_.now += MirrorTenants::kNoCredentialsTtl - 1s;
  GoAway();  // nobody is asked
  EXPECT_EQ(AskAs("")->why, api::MirrorRefusal::Why::kAbsent);
  EXPECT_EQ(ResultCount(MirrorResult::kNoCredentials), 2u);
  registry_of_team_.Guard(FaultOrigin::BlobPath(place_.repository, digest_));
  time_.now += 1s;
  EXPECT_EQ(AskAs("")->why, api::MirrorRefusal::Why::kChallenged);
}

// ---------------------------------------------------------------------------------------------- what is
// known

TEST(KnownBlobsTest, WhatWasUsedLongestAgoGoesFirst) {
  KnownBlobs known;
  const BlobOrigin place{"r.example", "app"};
  const auto name = [](size_t i) { return p2p::Sha256::Of(absl::StrCat(i)); };
  for (size_t i = 0; i < KnownBlobs::kEntriesMax; ++i)
    known.Put(place, name(i), {i, OriginAccess::kCredentials});
  EXPECT_EQ(known.Find(place, name(0))->size, 0u);
  known.Put(place, name(KnownBlobs::kEntriesMax), {1, OriginAccess::kPublic});
  EXPECT_TRUE(known.Find(place, name(0)));
  EXPECT_FALSE(known.Find(place, name(1)));
  EXPECT_FALSE(known.Find({"r.example", "other"}, name(0)));
  // What was public once is.
  known.Put(place, name(0), {0, OriginAccess::kPublic});
  known.Put(place, name(0), {0, OriginAccess::kCredentials});
  EXPECT_EQ(known.Find(place, name(0))->access, OriginAccess::kPublic);
  // And so is what the policy let pass.
  const Instant passed = Instant() + 1s;
  known.Put(place, name(0), {.size = 0, .passed_at = passed});
  known.Put(place, name(0), {.size = 0});
  EXPECT_EQ(known.Find(place, name(0))->passed_at, passed);
}

}  // namespace
}  // namespace sluice
