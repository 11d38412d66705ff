#include "node/cli/runtime_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"

namespace sluice::cli {
namespace {

using ::testing::HasSubstr;

constexpr char kMirror[] = "http://127.0.0.1:7303";

TEST(ConfigPathOfTest, IsThatOfTheRegistriesOfCri) {
  const struct {
    const char* text;
    const char* folder;
  } kCases[] = {
      {"", ""},
      {"version = 2\n", ""},
      {"config_path = \"/elsewhere\"\n", ""},
      {"[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
       "/etc/containerd/certs.d"},
      {"[ plugins . \"io.containerd.grpc.v1.cri\" . registry ]\nconfig_path='/a:/b' # two\n", "/a"},
      {"[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = \"/c\"\n", "/c"},
      {"[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"\"\n", ""},
      {"[plugins.\"io.containerd.grpc.v1.cri\".registry.configs]\nconfig_path = \"/d\"\n", ""},
      {"[plugins.\"io.containerd.grpc.v1.cri\".registry]\n#config_path = \"/e\"\n", ""},
  };
  for (const auto& config : kCases) {
    const auto folder = ConfigPathOf(config.text);
    ASSERT_TRUE(folder.ok()) << config.text;
    EXPECT_EQ(*folder, config.folder) << config.text;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(
      ConfigPathOf("[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = [\"/a\"]\n").status()));
}

TEST(DiscardsUnpackedLayersTest, IsWhatCriDoes) {
  const struct {
    const char* text;
    bool discards;
  } kCases[] = {
      {"", false},
      {"discard_unpacked_layers = true\n", false},
      {"[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  discard_unpacked_layers = true\n", true},
      {"[ plugins . \"io.containerd.grpc.v1.cri\" . containerd ] # mine\ndiscard_unpacked_layers=true # "
       "yes\n",
       true},
      {"[plugins.'io.containerd.cri.v1.images']\n  discard_unpacked_layers = true\n", true},
      {"[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  discard_unpacked_layers = false\n", false},
      {"[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n#discard_unpacked_layers = true\n", false},
      {"[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes]\ndiscard_unpacked_layers = true\n",
       false},
      {"[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n[plugins.\"x\"]\ndiscard_unpacked_layers = "
       "true\n",
       false},
  };
  for (const auto& config : kCases)
    EXPECT_EQ(DiscardsUnpackedLayers(config.text), config.discards) << config.text;
}

TEST(HostsTest, TheMirrorIsAskedFirstAndTheRestStays) {
  const std::string before =
      "server = \"https://r.example\"\n# mine\n[host.\"https://other\"]\n  skip_verify = true\n";
  const auto with = WithMirror(before, kMirror);
  ASSERT_TRUE(with.ok());
  EXPECT_LT(with->find("server ="), with->find("[host.\"http://127.0.0.1:7303\"]"));
  EXPECT_LT(with->find("[host.\"http://127.0.0.1:7303\"]"), with->find("[host.\"https://other\"]"));
  EXPECT_EQ(WithMirror(*with, kMirror).value(), *with);
  EXPECT_EQ(WithoutMirror(*with).value(), before);
  // Another one takes its place.
  const auto moved = WithMirror(*with, "http://127.0.0.1:9");
  EXPECT_EQ(moved->find(kMirror), std::string::npos);
  EXPECT_EQ(WithoutMirror(*moved).value(), before);
}

TEST(HostsTest, AFileOfItsOwnGoesAsItCame) {
  const auto with = WithMirror("", kMirror);
  ASSERT_TRUE(with.ok());
  EXPECT_THAT(*with, HasSubstr("capabilities = [\"pull\", \"resolve\"]"));
  EXPECT_EQ(WithoutMirror(*with).value(), std::nullopt);
}

TEST(HostsTest, WhatIsNotUnderstoodIsLeftAlone) {
  EXPECT_TRUE(
      absl::IsFailedPrecondition(WithMirror("[ host.\"http://127.0.0.1:7303\" ]\n", kMirror).status()));
  const std::string with = WithMirror("", kMirror).value();
  EXPECT_TRUE(absl::IsFailedPrecondition(WithoutMirror(with.substr(with.find('\n') + 1)).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(WithoutMirror(with.substr(0, with.rfind("# sluice"))).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(WithoutMirror(with + "# sluice: end\n").status()));
}

TEST(CrioTest, EachRegistryHasTheMirrorBeforeIt) {
  EXPECT_THAT(
      MirrorsOfRegistries({"docker.io", "quay.io"}, "127.0.0.1:7303"),
      HasSubstr("location = \"quay.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:7303/quay.io\"\n"));
}

TEST(CrioTest, WhatIsNamedGoesAndTheRestStays) {
  const std::string three = MirrorsOfRegistries({"docker.io", "quay.io", "quay.io/team"}, "127.0.0.1:7303");
  EXPECT_EQ(WithoutRegistries(three, {"quay.io", "elsewhere.io"}).value(),
            MirrorsOfRegistries({"docker.io", "quay.io/team"}, "127.0.0.1:7303"));
  EXPECT_EQ(WithoutRegistries(three, {"quay.io", "quay.io/team", "docker.io"}).value(), std::nullopt);
  EXPECT_EQ(WithoutRegistries(three, {}).value(), std::nullopt);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(WithoutRegistries("unqualified-search-registries = []\n", {}).status()));
}

}  // namespace
}  // namespace sluice::cli
