#include "p2p/registry/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;

const char kHex[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

std::string Full(const std::string& text) {
  const absl::StatusOr<ImageReference> reference = ImageReference::Parse(text);
  return reference.ok() ? reference->ToString() : std::string(reference.status().message());
}

TEST(ImageReference, FillsInDockersDefaults) {
  EXPECT_EQ(Full("debian"), "docker.io/library/debian:latest");
  EXPECT_EQ(Full("debian:12"), "docker.io/library/debian:12");
  EXPECT_EQ(Full("team/app"), "docker.io/team/app:latest");
  EXPECT_EQ(Full("docker.io/debian"), "docker.io/library/debian:latest");
  EXPECT_EQ(Full("index.docker.io/debian"), "docker.io/library/debian:latest");
}

TEST(ImageReference, TellsARegistryFromAUser) {
  EXPECT_EQ(Full("localhost/app"), "localhost/app:latest");
  EXPECT_EQ(Full("host:5000/app"), "host:5000/app:latest");
  EXPECT_EQ(Full("registry.example/a/b/c:v1"), "registry.example/a/b/c:v1");
  EXPECT_EQ(Full("[::1]:5000/app:v1"), "[::1]:5000/app:v1");
  EXPECT_EQ(Full("Registry.EXAMPLE:5000/app"), "registry.example:5000/app:latest");
}

TEST(ImageReference, KeepsTagAndDigest) {
  const std::string digest = std::string("@sha256:") + kHex;
  EXPECT_EQ(Full("r.example/app" + digest), "r.example/app" + digest);
  EXPECT_EQ(Full("r.example/app:v1" + digest), "r.example/app:v1" + digest);
  EXPECT_EQ(ImageReference::Parse("r.example/app:v1")->ManifestName(), "v1");
  EXPECT_EQ(ImageReference::Parse("r.example/app:v1" + digest)->ManifestName(), digest.substr(1));
}

TEST(ImageReference, FullFormParsesToTheSame) {
  for (const char* text : {"debian", "host:1/a", "r.example/x_y/z--w.v:T.ag_1", "[fe80::1]:65535/q"}) {
    const absl::StatusOr<ImageReference> reference = ImageReference::Parse(text);
    ASSERT_TRUE(reference.ok()) << reference.status();
    EXPECT_EQ(*ImageReference::Parse(reference->ToString()), *reference);
  }
}

class BadReference : public ::testing::TestWithParam<std::string> {};

TEST_P(BadReference, IsRefusedAndQuoted) {
  const absl::StatusOr<ImageReference> reference = ImageReference::Parse(GetParam());
  ASSERT_EQ(reference.status().code(), absl::StatusCode::kInvalidArgument) << GetParam();
  EXPECT_THAT(std::string(reference.status().message()), HasSubstr("image reference \""));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadReference,
    ::testing::Values("", ":", "/", "@", "a//b", "/a", "a/", "App", "r.example/App", "r.example/a..b",
                      "r.example/a___b", "r.example/-a", "r.example/a-", "r.example/../etc",
                      "r.example/a%2fb", "r.example/a:", "r.example/a:-x", "r.example/a:.x",
                      "r.example/a:b c", "r.example/a:" + std::string(129, 'x'), "https://r.example/a",
                      "r.example:0/a", "r.example:65536/a", "r.example:/a", "r.example:5x/a", "-r.example/a",
                      "r..example/a", "[::1/a", "[]:5000/a", "[::g]:1/a", "user@r.example/a",
                      "r.example/a@sha256:../..", "r.example/a@sha512:" + std::string(128, '0'),
                      std::string("r.example/a@sha256:") + kHex + "0", "r.example/a@",
                      std::string("r.example/a\0b", 13), "r.example/\xc3\xa4",
                      "r.example/" + std::string(260, 'a'), std::string(1 << 20, 'a')));

TEST(ImageReference, LongTextIsShortenedInTheMessage) {
  const absl::StatusOr<ImageReference> reference = ImageReference::Parse(std::string(1 << 20, 'a'));
  EXPECT_LT(reference.status().message().size(), 400u);
}

}  // namespace
}  // namespace sluice::p2p
