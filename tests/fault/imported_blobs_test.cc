// What containerd has pulled by itself, on a node that others ask for it: nobody knows by whose right it
// came, so the registry is asked first whether the repository that is named has it; of its bytes nothing is.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/blob_claim.h"
#include "tests/fault/home_node.h"
#include "tests/fault/token_origin.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using p2p::FaultOrigin;
using p2p::FaultRequest;
using p2p::TokenOrigin;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr uint32_t kChunk = kChunkSizeDefault;
constexpr char kPublic[] = "team/public";
constexpr char kOther[] = "team/other";

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 + i / 977);
  return bytes;
}

class ImportedBlobsTest : public ::testing::Test, protected HomeNode {
 protected:
  ImportedBlobsTest() { imports_ = true; }
  void TearDown() override { Stop(); }

  // Starts the node with the blob in containerd's content store.
  void Import(PeerTrust trust, const std::string& docker_config = "") {
    const std::string folder = content_.path() + "/blobs/sha256";
    std::filesystem::create_directories(folder);
    std::ofstream(absl::StrCat(folder, "/", digest_.Hex()), std::ios::binary) << bytes_;
    Start(docker_config, "*", trust);
    const auto imported = store_->Import(digest_, {});
    ASSERT_TRUE(imported.ok()) << imported.status();
  }
  std::string LoggedIn() {
    const std::string config = temp_.path() + "/config.json";
    origin_.WriteDockerConfig(config);
    return config;
  }

  Answer Ask(const std::string& role, const std::string& repository, uint32_t chunk = 1) {
    const BlobOrigin place{origin_.origin.registry(), repository};
    const BlobSpec spec{
        .digest = digest_, .size = bytes_.size(), .chunk_size = kChunk, .root = {}, .origins = {place}};
    return RawAsker(port(),
                    absl::StrCat("/v2/", repository, "/blobs/", digest_.ToString(), "?ns=", place.registry),
                    {.role = role,
                     .claim = FormatBlobClaim(spec, place, BlobClaim::Access::kPublic),
                     .range = absl::StrCat("bytes=", chunk * kChunk, "-", (chunk + 1) * kChunk - 1)})
        .Read();
  }
  void ExpectChunk(const Answer& answer, uint32_t chunk = 1) {
    EXPECT_EQ(answer.status, 206) << answer.body;
    EXPECT_TRUE(answer.body == bytes_.substr(size_t{chunk} * kChunk, kChunk));
  }
  // How often the origin was asked so for the blob.
  size_t Asked(const std::string& method, const std::string& repository) const {
    const std::vector<FaultRequest> requests =
        origin_.origin.requests(FaultOrigin::BlobPath(repository, digest_));
    return static_cast<size_t>(
        std::count_if(requests.begin(), requests.end(),
                      [&](const FaultRequest& request) { return request.method == method; }));
  }
  // What follows soon, or never.
  bool Becomes(const std::function<bool()>& holds) {
    for (const Instant end = clock_.Now() + 60s; !holds();) {
      if (clock_.Now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }

  TokenOrigin origin_;
  const std::string bytes_ = Pattern(2 * kChunk + kChunk / 2);
  // Of a repository that wants a token, and of one that does not.
  const Digest digest_ = origin_.AddBlob(bytes_);
  const Digest same_ = origin_.origin.AddBlob(kPublic, bytes_);
};

TEST_F(ImportedBlobsTest, IsGivenWhereItIsPublicAndNoByteIsAskedFor) {
  for (const PeerTrust trust : {PeerTrust::kUnproven, PeerTrust::kProven}) {
    Import(trust);
    const size_t before = Asked("HEAD", kPublic);
    ExpectChunk(Ask("home", kPublic));
    ExpectChunk(Ask("home", kPublic, 0), 0);
    ExpectChunk(Ask("present-only", kPublic));
    EXPECT_GT(Asked("HEAD", kPublic), before);
    EXPECT_LE(Asked("HEAD", kPublic), before + 1);
    EXPECT_EQ(Asked("GET", kPublic), 0u);
    Stop();
    std::filesystem::remove_all(temp_.path());
    std::filesystem::create_directories(temp_.path());
  }
}

TEST_F(ImportedBlobsTest, AStrangerIsToldNothingBeforeTheRegistryHasSaidThatItIsPublic) {
  Import(PeerTrust::kUnproven);
  const Answer first = Ask("present-only", kPublic);
  EXPECT_EQ(first.status, 404);
  EXPECT_EQ(first.interims, 0);
  EXPECT_TRUE(Becomes([&] { return Ask("present-only", kPublic).status == 206; }));
  EXPECT_EQ(Asked("GET", kPublic), 0u);
}

TEST_F(ImportedBlobsTest, IsNobodysWhereTheRegistryWantsCredentialsThatThisNodeHasNot) {
  Import(PeerTrust::kUnproven);
  const Answer home = Ask("home", TokenOrigin::kRepository);
  EXPECT_EQ(home.status, 403);
  EXPECT_THAT(home.body, HasSubstr("ask-yourself"));
  for (int i = 0; i < 2; ++i) {
    const Answer present = Ask("present-only", TokenOrigin::kRepository);
    EXPECT_EQ(present.status, 404);
    EXPECT_EQ(present.interims, 0);
  }
  // What is public by one name has no secret bytes; by another a home still answers for the registry.
  ExpectChunk(Ask("home", kPublic));
  ExpectChunk(Ask("present-only", TokenOrigin::kRepository));
  EXPECT_EQ(Ask("home", TokenOrigin::kRepository).status, 403);
}

TEST_F(ImportedBlobsTest, IsProvenMembersWhereTheRegistryGivesItToThisNode) {
  Import(PeerTrust::kProven, LoggedIn());
  ExpectChunk(Ask("present-only", TokenOrigin::kRepository));
  EXPECT_EQ(Asked("GET", TokenOrigin::kRepository), 0u);
  const BlobKey key(digest_);
  EXPECT_EQ(store_->AccessOf(key, origin_.place()), OriginAccess::kCredentials);
}

TEST_F(ImportedBlobsTest, IsNothingInARepositoryThatHasItNot) {
  Import(PeerTrust::kProven, LoggedIn());
  EXPECT_EQ(Ask("present-only", kOther).status, 404);
  EXPECT_EQ(Ask("present-only", kOther).status, 404);
  EXPECT_EQ(Asked("HEAD", kOther), 1u) << "that is remembered";
  EXPECT_EQ(store_->AccessOf(BlobKey(digest_), {origin_.origin.registry(), kOther}), OriginAccess::kUnknown);
}

TEST_F(ImportedBlobsTest, HasTheSizeThatItsRegistrySays) {
  Import(PeerTrust::kProven);
  origin_.origin.Always(FaultOrigin::BlobPath(kPublic, digest_),
                        p2p::fault::Status(200, {{"Content-Length", std::to_string(bytes_.size() + 1)}}));
  EXPECT_EQ(Ask("present-only", kPublic).status, 404);
}

TEST_F(ImportedBlobsTest, WhatVanishesIsNotGivenAndNotMadeUp) {
  Import(PeerTrust::kProven);
  ExpectChunk(Ask("present-only", kPublic));
  std::filesystem::remove_all(content_.path() + "/blobs");
  const Answer gone = Ask("present-only", kPublic);
  EXPECT_NE(gone.status, 206) << "or an answer that is cut short";
  EXPECT_EQ(Ask("present-only", kPublic).status, 404);
  ExpectChunk(Ask("home", kPublic));
  EXPECT_GT(Asked("GET", kPublic), 0u) << "it comes from the registry again";
}

}  // namespace
}  // namespace sluice
