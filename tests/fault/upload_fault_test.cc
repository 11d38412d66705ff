// Pushing to a registry that misbehaves, and the ways to a token that a well-behaved one does not show.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "p2p/recipe/sha256.h"
#include "p2p/registry/registry_client.h"
#include "tests/fault/fault_origin.h"
#include "tests/fault/skipping_time.h"

namespace sluice::p2p {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kRepository[] = "team/app";
constexpr char kBegin[] = "/v2/team/app/blobs/uploads/";
constexpr char kUpload[] = "/v2/team/app/blobs/uploads/1";

class UploadFaultTest : public ::testing::Test {
 protected:
  UploadFaultTest() : blob_(100'000, 'b'), digest_(Sha256::Of(blob_)) {
    options_.upload_chunk_bytes = 40'000;
    options_.retries_max = 2;
    std::string directory = (std::filesystem::temp_directory_path() / "sluice-upload-XXXXXX").string();
    directory_ = ::mkdtemp(directory.data());
    origin_.Always(kBegin, fault::Status(202, {{"Location", std::string(kUpload) + "?_state=begun"}}));
    origin_.Always(kUpload, [](const FaultRequest& request, FaultConnection& connection) {
      if (request.method == "PUT") return connection.Send(201, {}, "");
      // A relative location is as good as an absolute one.
      connection.Send(202, {{"Location", "1?_state=next"}}, "");
    });
  }
  ~UploadFaultTest() override {
    client_.reset();
    std::filesystem::remove_all(directory_);
  }

  RegistryClient& client() {
    if (!client_) client_.emplace(RegistryClient::Parts{time_, time_, telemetry_}, options_);
    return *client_;
  }
  BlobOrigin Place(const FaultOrigin& origin) const { return {origin.registry(), kRepository}; }
  absl::Status Push() {
    return client().PushBlob(Place(origin_), digest_, HttpBody::FromString(blob_), nullptr);
  }
  void UseCredentials(const std::string& registry, const std::string& entry) {
    options_.docker_config_path = directory_ / "config.json";
    std::ofstream(options_.docker_config_path) << R"({"auths":{")" << registry << "\":" << entry << "}}";
  }

  FaultOrigin origin_;
  const std::string blob_;
  const Digest digest_;
  SkippingTime time_;
  Telemetry telemetry_;
  RegistryOptions options_;
  std::filesystem::path directory_;
  std::optional<RegistryClient> client_;
};

TEST_F(UploadFaultTest, ChunksFollowTheLocationsAndAreWhole) {
  ASSERT_EQ(Push(), absl::OkStatus());
  const std::vector<FaultRequest> requests = origin_.requests(kUpload);
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[0].query, "_state=begun");
  EXPECT_EQ(requests[1].query, "_state=next");
  EXPECT_EQ(requests[0].Header("content-range"), "0-39999");
  EXPECT_EQ(requests[2].Header("content-range"), "80000-99999");
  EXPECT_EQ(requests[0].body + requests[1].body + requests[2].body, blob_);
  EXPECT_EQ(requests[3].method, "PUT");
  EXPECT_EQ(requests[3].body, "");
  EXPECT_THAT(requests[3].query,
              AllOf(HasSubstr("_state=next&"), HasSubstr("digest=sha256%3A" + digest_.Hex())));
}

TEST_F(UploadFaultTest, BrokenUploadIsBegunAnew) {
  const FaultBehaviour proceed = fault::Status(202, {{"Location", kUpload}});
  origin_.Script(kUpload, {proceed, fault::Status(500)});
  ASSERT_EQ(Push(), absl::OkStatus());
  EXPECT_EQ(origin_.request_count(kBegin), 2u);
}

TEST_F(UploadFaultTest, UploadThatKeepsBreakingIsGivenUp) {
  origin_.Always(kUpload, fault::Hangup());
  const absl::Status status = Push();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(digest_.ToString()));
  EXPECT_EQ(origin_.request_count(kBegin), 1u + options_.retries_max);
}

TEST_F(UploadFaultTest, LocationOnAnotherHostGetsTheBytesButNoAuthorization) {
  UseCredentials(origin_.registry(), R"({"username":"user","password":"p"})");
  FaultOrigin storage;
  storage.Always("/put", fault::Status(201));
  origin_.Script(
      kBegin,
      {fault::Status(401, {{"WWW-Authenticate", "Basic realm=\"r\""}}),
       fault::Status(202, {{"Location", "http://localhost:" + std::to_string(storage.port()) + "/put"}})});
  options_.upload_chunk_bytes = 1 << 20;
  ASSERT_EQ(Push(), absl::OkStatus());
  EXPECT_NE(origin_.requests(kBegin)[1].Header("authorization"), "");
  ASSERT_EQ(storage.request_count("/put"), 1u);
  EXPECT_EQ(storage.requests("/put")[0].Header("authorization"), "");
  EXPECT_EQ(storage.requests("/put")[0].body, blob_);
}

TEST_F(UploadFaultTest, LocationsThatAreNoPlaceForAnUploadAreRefused) {
  for (const char* location : {"file:///tmp/x", "http://169.254.169.254/x"}) {
    origin_.Script(kBegin, {fault::Status(202, {{"Location", location}})});
    const absl::Status status = Push();
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << location << status;
  }
  origin_.Script(kBegin, {fault::Status(202)});
  EXPECT_EQ(Push().code(), absl::StatusCode::kDataLoss);
}

TEST_F(UploadFaultTest, TokenThatExpiresDuringAnUploadIsRenewed) {
  origin_.Always("/token", fault::Status(200, {}, R"({"token":"t"})"));
  const FaultBehaviour unauthorized =
      fault::Status(401, {{"WWW-Authenticate", "Bearer realm=\"" + origin_.Url("/token") + "\""}});
  const FaultBehaviour proceed = fault::Status(202, {{"Location", kUpload}});
  origin_.Script(kUpload, {proceed, unauthorized});
  ASSERT_EQ(Push(), absl::OkStatus());
  const std::vector<FaultRequest> requests = origin_.requests(kUpload);
  ASSERT_EQ(requests.size(), 5u);
  EXPECT_EQ(requests[1].body, requests[2].body);
  EXPECT_EQ(requests[2].Header("authorization"), "Bearer t");
  EXPECT_EQ(origin_.requests("/token")[0].query, "scope=repository%3Ateam%2Fapp%3Apull%2Cpush");
  EXPECT_EQ(origin_.request_count(kBegin), 1u);
}

TEST_F(UploadFaultTest, SubjectThatTheRegistryTookNoteOfNeedsNoTag) {
  ImageManifest manifest;
  manifest.config.media_type = media_type::kOciEmpty;
  manifest.config.digest = Sha256::Of("{}");
  manifest.config.size = 2;
  manifest.subject = manifest.config;
  manifest.subject->media_type = media_type::kOciManifest;
  const std::string body = SerializeManifest(manifest);
  origin_.Always(FaultOrigin::ManifestPath(kRepository, "v1"),
                 fault::Status(201, {{"OCI-Subject", manifest.subject->digest.ToString()}}));
  const absl::StatusOr<Digest> pushed =
      client().PushManifest(Place(origin_), "v1", std::string(media_type::kOciManifest), body);
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_EQ(origin_.request_count(
                FaultOrigin::ManifestPath(kRepository, "sha256-" + manifest.subject->digest.Hex())),
            0u);
}

TEST_F(UploadFaultTest, IdentityTokenIsExchangedByPost) {
  UseCredentials(origin_.registry(), R"({"identitytoken":"refresh/+me"})");
  const Digest digest = origin_.AddBlob(kRepository, blob_);
  origin_.Always("/token", fault::TokenForCredentials(R"({"access_token":"t"})"));
  origin_.RequireAuthorization("Bearer t", "Bearer realm=\"" + origin_.Url("/token") + "\",service=\"s\"");
  EXPECT_EQ(client().HeadBlob(Place(origin_), digest).value(), blob_.size());
  const FaultRequest request = origin_.requests("/token")[1];
  EXPECT_EQ(request.method, "POST");
  EXPECT_THAT(request.body, AllOf(HasSubstr("grant_type=refresh_token"),
                                  HasSubstr("refresh_token=refresh%2F%2Bme"), HasSubstr("service=s")));
  EXPECT_THAT(request.query, Not(HasSubstr("refresh")));
}

TEST_F(UploadFaultTest, ForeignHttpsRealmIsAskedWithoutCredentials) {
  FaultOrigin secure(FaultOrigin::Transport::kTls);
  UseCredentials(secure.registry(), R"({"username":"user","password":"p"})");
  options_.ca_file = secure.ca_file();
  options_.loopback_https = {secure.registry()};
  const Digest digest = secure.AddBlob(kRepository, blob_);
  secure.Always("/token", fault::Status(200, {}, R"({"token":"t"})"));
  const std::string realm = "https://localhost:" + std::to_string(secure.port()) + "/token";
  secure.RequireAuthorization("Bearer t", "Bearer realm=\"" + realm + "\"");
  EXPECT_EQ(client().HeadBlob(Place(secure), digest).value(), blob_.size());
  EXPECT_EQ(secure.requests("/token")[0].Header("authorization"), "");
}

TEST_F(UploadFaultTest, TokenServerThatIsBusyIsAskedAgain) {
  const Digest digest = origin_.AddBlob(kRepository, blob_);
  origin_.Script("/token", {fault::Status(503), fault::Status(200, {}, R"({"token":"t"})")});
  origin_.RequireAuthorization("Bearer t", "Bearer realm=\"" + origin_.Url("/token") + "\"");
  const absl::StatusOr<uint64_t> size = client().HeadBlob(Place(origin_), digest);
  EXPECT_TRUE(size.ok()) << size.status();
  EXPECT_EQ(origin_.request_count("/token"), 2u);
}

}  // namespace
}  // namespace sluice::p2p
