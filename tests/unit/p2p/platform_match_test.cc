#include "p2p/registry/platform_match.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/registry/layer_types.h"
#include "p2p/registry/lenient_text.h"

namespace sluice::p2p {
namespace {

using ::testing::ElementsAre;

// Unlike Platform::Parse, as an index has it: nothing is put right.
Platform Raw(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, '/');
  return {parts[0], parts[1], parts.size() > 2 ? parts[2] : "", {}};
}

struct Line {
  const char* wanted;
  const char* in_order;  // best first, what is not taken after "|"
  const char* source;
};

constexpr Line kOrder[] = {
    {"linux/amd64", "linux/amd64 linux/386 | linux/amd64/v2 linux/amd64/v3 linux/arm64 windows/amd64",
     "containerd/platforms compare.go, platformVector: amd64 has no variant, 386 behind it"},
    {"linux/amd64/v1", "linux/amd64/v1 linux/386 | linux/amd64/v2", "database.go, normalizeArch: v1 is none"},
    {"linux/amd64/v2", "linux/amd64/v2 linux/amd64 linux/386 | linux/amd64/v3", "compare.go, amd64"},
    {"linux/amd64/v4",
     "linux/amd64/v4 linux/amd64/v3 linux/amd64/v2 linux/amd64/v1 linux/386 | linux/amd64/v5",
     "compare.go, amd64"},
    {"linux/amd64/baseline", "linux/amd64/baseline linux/386 | linux/amd64",
     "compare.go: a variant that is no number has nothing below it but 386"},
    {"linux/386", "linux/386 linux/i386 | linux/amd64", "database.go: i386"},
    {"linux/x86_64", "linux/amd64 linux/x86-64", "database.go, normalizeArch"},
    {"linux/arm64",
     "linux/arm64/v8 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5 | linux/arm64/v9 linux/arm64/v8.1",
     "compare.go, arm64: v8 is the default; then arm of the same variant"},
    {"linux/aarch64/8", "linux/arm64 linux/arm/v8", "database.go: 8 is v8"},
    {"linux/arm64/v8.2", "linux/arm64/v8.2 linux/arm64/v8.1 linux/arm64 linux/arm/v8 linux/armhf",
     "compare.go, arm64: v8.x runs v8.{0..x-1}"},
    {"linux/arm64/v9", "linux/arm64/v9 linux/arm64/v8.5 linux/arm64/v8.4 linux/arm64/v8 linux/arm/v7",
     "compare.go, arm64: v9.x runs v8.{0..x+5}"},
    {"linux/arm64/v9.1",
     "linux/arm64/v9.1 linux/arm64/v9 linux/arm64/v8.6 linux/arm64/v8.5 | linux/arm64/v9.2",
     "compare.go, arm64"},
    {"linux/arm", "linux/arm/v7 linux/arm/v6 linux/armel/x linux/arm/v5 | linux/arm/v8 linux/arm64",
     "database.go: arm is v7; armel is v6"},
    {"linux/arm/v7", "linux/arm linux/arm/v6 linux/arm/5", "compare.go, arm: down to v5"},
    {"linux/arm/v6", "linux/arm/v6 linux/arm/v5 | linux/arm/v7 linux/arm", "compare.go, arm"},
    {"linux/riscv64", "linux/riscv64 | linux/riscv64/rva22u64 linux/amd64", "compare.go: equal or not"},
    {"Linux/AMD64", "linux/amd64", "database.go: all in lower case"},
    {"macos/arm64", "darwin/arm64", "database.go, normalizeOS"},
};

TEST(PlatformRank, IsContainerdsOrder) {
  for (const Line& line : kOrder) {
    const std::vector<std::string> sides = absl::StrSplit(line.in_order, " | ");
    std::optional<uint32_t> last;
    std::string last_canonical;
    for (const std::string& offered : std::vector<std::string>(absl::StrSplit(sides[0], ' '))) {
      const std::optional<uint32_t> rank = PlatformRank(Raw(line.wanted), Raw(offered));
      const std::string canonical = Normalized(Raw(offered)).ToString();
      ASSERT_TRUE(rank) << line.wanted << " takes " << offered << ": " << line.source;
      EXPECT_TRUE(last ? (canonical == last_canonical ? *rank == *last : *rank > *last) : *rank == 0)
          << line.wanted << ": " << offered << " has rank " << *rank << ": " << line.source;
      last = rank;
      last_canonical = canonical;
    }
    if (sides.size() == 1) continue;
    for (const std::string& refused : std::vector<std::string>(absl::StrSplit(sides[1], ' '))) {
      EXPECT_FALSE(PlatformRank(Raw(line.wanted), Raw(refused)))
          << line.wanted << " does not take " << refused << ": " << line.source;
    }
  }
}

// compare.go, NewMatcher: what is offered must have no feature that was not asked for.
TEST(PlatformRank, FeaturesAreForThoseWhoHaveThem) {
  const Platform plain{"linux", "amd64", "", {}};
  const Platform erofs{"linux", "amd64", "", {"erofs"}};
  const Platform both{"linux", "amd64", "", {"erofs", "b"}};
  EXPECT_EQ(PlatformRank(plain, plain), 0u);
  EXPECT_FALSE(PlatformRank(plain, erofs));
  EXPECT_FALSE(PlatformRank(erofs, both));
  EXPECT_EQ(PlatformRank(erofs, erofs), 0u);
  EXPECT_EQ(PlatformRank(erofs, {"linux", "amd64", "", {"erofs", "erofs"}}), 0u);
  EXPECT_EQ(PlatformRank(both, {"linux", "amd64", "", {"b", "erofs"}}), 0u);
  ASSERT_TRUE(PlatformRank(erofs, plain));
  // A lower variant that can be mounted is better than a higher one that can't.
  const Platform v3{"linux", "amd64", "v3", {"erofs"}};
  EXPECT_LT(PlatformRank(v3, erofs), PlatformRank(v3, {"linux", "amd64", "v3", {}}));
}

TEST(Platform, ParsesOtherNames) {
  const auto text = [](std::string_view from) { return Platform::Parse(from)->ToString(); };
  EXPECT_EQ(text("linux/x86_64"), "linux/amd64");
  EXPECT_EQ(text("linux/aarch64"), "linux/arm64");
  EXPECT_EQ(text("linux/armhf"), "linux/arm/v7");
  EXPECT_EQ(text("linux/armel"), "linux/arm/v6");
  EXPECT_EQ(text("Linux/AMD64"), "linux/amd64");
  EXPECT_EQ(text("linux/arm64/v8"), "linux/arm64/v8");
  EXPECT_EQ(text("linux/amd64/v1"), "linux/amd64/v1");
  EXPECT_EQ(text("linux/arm"), "linux/arm");
}

TEST(Platform, ThisCpuRunsWhatTheHostRuns) {
  EXPECT_TRUE(PlatformRank(ThisCpu(), Platform::Host()));
  EXPECT_THAT(ThisCpu().os_features, ElementsAre());
}

// Source: image-spec media-types.md; moby, distribution and BuildKit for docker's.
TEST(LayerTypes, AreTarOrNot) {
  const std::string docker = "application/vnd.docker.image.rootfs.";
  const std::string oci = "application/vnd.oci.image.layer.";
  for (const char* end : {"", ".gzip", ".zstd"}) {
    EXPECT_TRUE(IsTarLayer(absl::StrCat(docker, "diff.tar", end)));
    EXPECT_TRUE(IsTarLayer(absl::StrCat(docker, "foreign.diff.tar", end)));
  }
  for (const char* end : {"", "+gzip", "+zstd"}) {
    EXPECT_TRUE(IsTarLayer(absl::StrCat(oci, "v1.tar", end)));
    EXPECT_TRUE(IsTarLayer(absl::StrCat(oci, "nondistributable.v1.tar", end)));
  }
  for (const std::string& other :
       {oci + "v1.tar+gzip+encrypted", oci + "v1.erofs", docker + "diff", std::string(),
        std::string("application/vnd.in-toto+json"), std::string(media_type::kErofs)}) {
    EXPECT_FALSE(IsTarLayer(other)) << other;
  }
}

// Each right value is what go run prints of json.Unmarshal and json.Marshal.
TEST(LenientText, ReplacesWhatGoReplaces) {
  const std::string bad = "\xEF\xBF\xBD";
  const auto text = [](const std::string& inside) { return WithReplacedText("{\"a\":\"" + inside + "\"}"); };
  const auto right = [](const std::string& inside) { return "{\"a\":\"" + inside + "\"}"; };
  EXPECT_EQ(text("caf\xe9"), right("caf" + bad));
  EXPECT_EQ(text("\xe9\" "), right(bad + "\" "));
  EXPECT_EQ(text("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"), right("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"));
  EXPECT_EQ(text("\xc0\xaf"), right(bad + bad));            // overlong
  EXPECT_EQ(text("\xe0\x80\xaf"), right(bad + bad + bad));  // overlong
  EXPECT_EQ(text("\xf0\x80\x80\xaf"), right(bad + bad + bad + bad));
  EXPECT_EQ(text("\xed\xa0\x80"), right(bad + bad + bad));            // a surrogate
  EXPECT_EQ(text("\xf4\x90\x80\x80"), right(bad + bad + bad + bad));  // beyond U+10FFFF
  EXPECT_EQ(text("\xe2\x82"), right(bad + bad));                      // cut off
  EXPECT_EQ(text("\\ud800x"), right("\\ufffdx"));
  EXPECT_EQ(text("\\udc00\\ud800"), right("\\ufffd\\ufffd"));
  EXPECT_EQ(text("\\ud83d\\ude00"), right("\\ud83d\\ude00"));
  EXPECT_EQ(text("\\\\ud800"), right("\\\\ud800"));
  EXPECT_EQ(text("\\\"\xff"), right("\\\"" + bad));
  EXPECT_EQ(text("\\\xff"), right("\\" + bad));  // no JSON, before and after
  // Outside of strings nothing is mended.
  EXPECT_EQ(WithReplacedText("{\xff}"), "{\xff}");
  EXPECT_EQ(WithReplacedText("\"\\u12"), "\"\\u12");
  EXPECT_EQ(WithReplacedText("\"\\"), "\"\\");
}

TEST(ImageConfig, TakesTextThatIsNoUnicode) {
  const absl::StatusOr<std::string> lazy = MakeLazyConfig(
      "{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Labels\":{\"a\":\"caf\xe9\"}}}", {}, {});
  ASSERT_TRUE(lazy.ok()) << lazy.status();
  EXPECT_THAT(*lazy, ::testing::HasSubstr("\"a\":\"caf\xEF\xBF\xBD\""));
}

// descriptor.md registers sha512; which ids the layers had before is nothing that we need.
TEST(ImageConfig, TakesDiffIdsOfAnyAlgorithm) {
  const std::string id = "sha512:" + std::string(128, 'a');
  const absl::StatusOr<ImageConfig> config =
      ParseImageConfig("{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" + id + "\"]}}");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->diff_ids, ElementsAre(id));
}

}  // namespace
}  // namespace sluice::p2p
