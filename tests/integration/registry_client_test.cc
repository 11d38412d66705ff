// The registry client against a real docker-registry 2.8.

#include "p2p/registry/registry_client.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <optional>

#include "p2p/recipe/sha256.h"
#include "tests/fault/skipping_time.h"
#include "tests/integration/registry_fixture.h"

namespace sluice::p2p {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr size_t kBigBlobBytes = 40 << 20;
const std::string kManifestType(media_type::kOciManifest);

std::string Pattern(size_t size, uint32_t seed) {
  std::string bytes(size, '\0');
  uint32_t x = seed | 1;
  for (char& c : bytes) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    c = static_cast<char>(x);
  }
  return bytes;
}

class RegistryClientTest : public ::testing::Test {
 protected:
  void StartClient(RegistryOptions options = {}) {
    client_.emplace(RegistryClient::Parts{time_, time_, telemetry_}, options);
  }

  Digest Push(const BlobOrigin& place, const std::string& bytes) {
    const Digest digest = Sha256::Of(bytes);
    const absl::Status status = client_->PushBlob(place, digest, HttpBody::FromString(bytes), nullptr);
    EXPECT_TRUE(status.ok()) << status;
    return digest;
  }

  std::string Read(const BlobOrigin& place, const Digest& digest, uint64_t size, ByteRange range) {
    std::string bytes;
    std::promise<absl::Status> done;
    client_->ReadBlobRange(
        place, digest, size, range, FetchClass::kDemand, time_.Now() + std::chrono::seconds(60),
        [](OriginAccess) {},
        [&](std::span<const std::byte> part) {
          bytes.append(reinterpret_cast<const char*>(part.data()), part.size());
        },
        [&](absl::Status status) { done.set_value(std::move(status)); });
    const absl::Status status = done.get_future().get();
    EXPECT_TRUE(status.ok()) << status;
    return bytes;
  }

  Descriptor Describe(std::string_view type, const Digest& digest, uint64_t size) {
    Descriptor descriptor;
    descriptor.media_type = type;
    descriptor.digest = digest;
    descriptor.size = size;
    return descriptor;
  }

  // A manifest with an empty config and one layer, both pushed.
  ImageManifest NewImage(const BlobOrigin& place, const std::string& layer) {
    ImageManifest manifest;
    manifest.config = Describe(media_type::kOciConfig, Push(place, "{}"), 2);
    manifest.layers = {Describe(media_type::kOctetStream, Push(place, layer), layer.size())};
    return manifest;
  }

  SkippingTime time_;
  Telemetry telemetry_;
  std::optional<RegistryClient> client_;
};

TEST_F(RegistryClientTest, BigBlobGoesUpInChunksFromAFileAndComesBackByRange) {
  const RegistryFixture registry;
  StartClient();
  const BlobOrigin place{registry.registry(), "team/app"};
  const std::string blob = Pattern(kBigBlobBytes, 7);
  const Digest digest = Sha256::Of(blob);
  const std::string path = registry.directory() + "/blob";
  std::ofstream(path, std::ios::binary) << "skipped" << blob;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);

  EXPECT_TRUE(absl::IsNotFound(client_->HeadBlob({registry.registry(), "team/other"}, digest).status()));
  uint64_t sent = 0;
  const absl::Status pushed = client_->PushBlob(place, digest, HttpBody::FromFile(fd, 7, blob.size()),
                                                [&](uint64_t bytes) { sent = bytes; });
  ::close(fd);
  ASSERT_TRUE(pushed.ok()) << pushed;
  EXPECT_EQ(sent, blob.size());
  EXPECT_EQ(client_->HeadBlob(place, digest).value(), blob.size());

  for (const ByteRange range :
       {ByteRange{0, 1}, ByteRange{1234567, 262144}, ByteRange{kBigBlobBytes - 1, 1}}) {
    EXPECT_TRUE(Read(place, digest, blob.size(), range) == blob.substr(range.offset, range.length));
  }
  EXPECT_TRUE(client_->FetchWholeBlob(place, digest, kBigBlobBytes).value() == blob);
}

TEST_F(RegistryClientTest, BlobThatIsThereIsNotSentAgain) {
  const RegistryFixture registry;
  StartClient();
  const BlobOrigin place{registry.registry(), "team/app"};
  const std::string blob = Pattern(1 << 20, 3);
  const Digest digest = Push(place, blob);
  bool sent = false;
  EXPECT_TRUE(
      client_->PushBlob(place, digest, HttpBody::FromString(blob), [&](uint64_t) { sent = true; }).ok());
  EXPECT_FALSE(sent);
}

TEST_F(RegistryClientTest, AnUploadThatIsOnlyTriedLeavesNothing) {
  const RegistryFixture registry;
  StartClient();
  const absl::Status allowed = client_->CheckPush({registry.registry(), "team/app"});
  EXPECT_TRUE(allowed.ok()) << allowed;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(registry.directory()))
    EXPECT_FALSE(entry.path().filename() == "startedat") << entry.path();
}

TEST_F(RegistryClientTest, BlobIsTakenFromAnotherRepositoryWithoutItsBytes) {
  const RegistryFixture registry;
  StartClient();
  const BlobOrigin place{registry.registry(), "team/app"};
  const BlobOrigin other{registry.registry(), "team/other"};
  const std::string blob = Pattern(1 << 20, 4);
  const Digest digest = Push(place, blob);
  EXPECT_TRUE(absl::IsNotFound(client_->HeadBlob(other, digest).status()));
  EXPECT_TRUE(client_->TakeBlob(other, digest, place).value());
  EXPECT_EQ(client_->HeadBlob(other, digest).value(), blob.size());
  EXPECT_TRUE(client_->TakeBlob(other, digest, other).value());
  // What the other repository has not, and what lies in another registry, is to be uploaded.
  EXPECT_FALSE(client_->TakeBlob(other, Sha256::Of("none"), place).value());
  EXPECT_FALSE(
      client_->TakeBlob({registry.registry(), "team/third"}, digest, {"other:5000", "team/app"}).value());
}

TEST_F(RegistryClientTest, BlobWithOtherBytesThanItsDigestIsNotTaken) {
  const RegistryFixture registry;
  StartClient();
  const BlobOrigin place{registry.registry(), "team/app"};
  EXPECT_FALSE(client_->PushBlob(place, Sha256::Of("right"), HttpBody::FromString("wrong"), nullptr).ok());
  EXPECT_TRUE(absl::IsNotFound(client_->HeadBlob(place, Sha256::Of("right")).status()));
}

TEST_F(RegistryClientTest, ManifestComesBackByTagAndByDigest) {
  const RegistryFixture registry;
  StartClient();
  const BlobOrigin place{registry.registry(), "team/app"};
  EXPECT_TRUE(absl::IsNotFound(client_->FetchManifest(place, "v1", {kManifestType}).status()));
  const std::string body = SerializeManifest(NewImage(place, "layer"));
  const absl::StatusOr<Digest> digest = client_->PushManifest(place, "v1", kManifestType, body);
  ASSERT_TRUE(digest.ok()) << digest.status();
  for (const std::string& name : {std::string("v1"), digest->ToString()}) {
    const absl::StatusOr<FetchedManifest> manifest = client_->FetchManifest(place, name, {kManifestType});
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    EXPECT_EQ(manifest->body, body);
    EXPECT_EQ(manifest->media_type, kManifestType);
    EXPECT_EQ(manifest->digest, *digest);
  }
}

TEST_F(RegistryClientTest, ReferrersAreListedThroughTheTagWhereThereIsNoApi) {
  const RegistryFixture registry;
  StartClient();
  const BlobOrigin place{registry.registry(), "team/app"};
  const std::string image_body = SerializeManifest(NewImage(place, "layer"));
  const Digest image = client_->PushManifest(place, "v1", kManifestType, image_body).value();
  const std::string recipe_type(media_type::kRecipeArtifact);
  const absl::StatusOr<std::vector<Descriptor>> none = client_->ListReferrers(place, image, recipe_type);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_THAT(*none, ElementsAre());

  std::vector<Digest> pushed;
  for (const std::string& artifact :
       {recipe_type, std::string("application/vnd.example.other"), recipe_type}) {
    ImageManifest referrer = NewImage(place, "recipe " + std::to_string(pushed.size()));
    referrer.artifact_type = artifact;
    referrer.subject = Describe(kManifestType, image, image_body.size());
    referrer.annotations = {{"n", std::to_string(pushed.size())}};
    const std::string body = SerializeManifest(referrer);
    const absl::StatusOr<Digest> digest =
        client_->PushManifest(place, Sha256::Of(body).ToString(), kManifestType, body);
    ASSERT_TRUE(digest.ok()) << digest.status();
    // Once more changes nothing.
    EXPECT_TRUE(client_->PushManifest(place, digest->ToString(), kManifestType, body).ok());
    pushed.push_back(*digest);
  }
  const absl::StatusOr<std::vector<Descriptor>> found = client_->ListReferrers(place, image, recipe_type);
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[0].digest, pushed[0]);
  EXPECT_EQ((*found)[1].digest, pushed[2]);
  EXPECT_EQ((*found)[1].annotations.at("n"), "2");
}

TEST_F(RegistryClientTest, BasicAuthenticationOpensAndWrongOrNoCredentialsDoNot) {
  const RegistryFixture::Login right{"user", "correct-horse"};
  const RegistryFixture registry(right);
  const BlobOrigin place{registry.registry(), "team/app"};
  StartClient();
  const absl::Status anonymous = client_->HeadBlob(place, Sha256::Of("x")).status();
  EXPECT_TRUE(absl::IsUnauthenticated(anonymous)) << anonymous;
  EXPECT_THAT(std::string(anonymous.message()), HasSubstr("docker login"));

  RegistryOptions options;
  options.docker_config_path = registry.WriteDockerConfig({"user", "battery-staple"});
  StartClient(options);
  const absl::Status wrong = client_->HeadBlob(place, Sha256::Of("x")).status();
  EXPECT_TRUE(absl::IsUnauthenticated(wrong)) << wrong;
  EXPECT_THAT(std::string(wrong.message()), Not(HasSubstr("battery-staple")));

  // The same client finds the file changed.
  registry.WriteDockerConfig(right);
  const Digest digest = Push(place, Pattern(100'000, 5));
  EXPECT_EQ(client_->HeadBlob(place, digest).value(), 100'000u);
}

TEST_F(RegistryClientTest, RegistryThatWasRestartedIsFoundAgain) {
  RegistryFixture registry;
  StartClient();
  const BlobOrigin place{registry.registry(), "team/app"};
  const Digest digest = Push(place, "bytes");
  registry.Kill();
  EXPECT_TRUE(absl::IsUnavailable(client_->HeadBlob(place, digest).status()));
  registry.Restart();
  EXPECT_EQ(client_->FetchWholeBlob(place, digest, 100).value(), "bytes");
}

}  // namespace
}  // namespace sluice::p2p
