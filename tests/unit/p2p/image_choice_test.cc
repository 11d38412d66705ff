#include "p2p/registry/image_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;

// A registry's documents, in memory.
class ImageChoiceTest : public ::testing::Test {
 protected:
  static Descriptor Entry(std::string_view type, const std::string& body, const std::string& platform) {
    Descriptor entry{.media_type = std::string(type), .digest = Sha256::Of(body), .size = body.size()};
    if (!platform.empty()) entry.platform = *Platform::Parse(platform);
    return entry;
  }

  Descriptor Keep(std::string_view type, std::string body, const std::string& platform = "") {
    const Descriptor entry = Entry(type, body, platform);
    bodies_[entry.digest] = {std::string(type), std::move(body), entry.digest};
    return entry;
  }

  // An image that says `name` of itself; its configuration is for `config_platform`.
  Descriptor Image(const std::string& name, const std::string& platform = "",
                   const std::string& config = R"({"os":"linux","architecture":"amd64"})",
                   std::string_view config_type = media_type::kOciConfig) {
    ImageManifest manifest;
    manifest.config = Entry(config_type, config, "");
    configs_[manifest.config.digest] = config;
    manifest.annotations["name"] = name;
    return Keep(media_type::kOciManifest, SerializeManifest(manifest), platform);
  }

  Descriptor Index(std::vector<Descriptor> entries, const std::string& platform = "") {
    ImageIndex index;
    index.manifests = std::move(entries);
    return Keep(media_type::kOciIndex, SerializeIndex(index), platform);
  }

  static Descriptor WithErofs(Descriptor entry) {
    entry.platform->os_features = {"erofs"};
    return entry;
  }

  absl::StatusOr<ChosenImage> Choose(const Descriptor& root, const Platform& wanted) {
    fetched_ = 0;
    const auto manifest = [this](const Digest& digest) -> absl::StatusOr<FetchedManifest> {
      ++fetched_;
      if (away_ == digest) return absl::UnavailableError("away");
      const auto found = bodies_.find(digest);
      if (found == bodies_.end()) return absl::NotFoundError("no such manifest");
      return found->second;
    };
    const auto config = [this](const Descriptor& blob) -> absl::StatusOr<std::string> {
      const auto found = configs_.find(blob.digest);
      if (found == configs_.end()) return absl::NotFoundError("no such blob");
      return found->second;
    };
    return ChooseImage(bodies_[root.digest], wanted, {.manifest = manifest, .config = config});
  }

  // The chosen image's name, or why there is none.
  std::string Name(const Descriptor& root, const std::string& wanted,
                   const std::vector<std::string>& features = {}) {
    Platform platform = *Platform::Parse(wanted);
    platform.os_features = features;
    const absl::StatusOr<ChosenImage> chosen = Choose(root, platform);
    if (!chosen.ok()) return chosen.status().ToString();
    EXPECT_EQ(Sha256::Of(chosen->fetched.body), chosen->fetched.digest);
    return chosen->manifest.annotations.at("name");
  }

  std::map<Digest, FetchedManifest> bodies_;
  std::map<Digest, std::string> configs_;
  size_t fetched_ = 0;
  std::optional<Digest> away_;  // what can't be had for now
};

TEST_F(ImageChoiceTest, AnImageIsItselfWhateverItsPlatform) {
  EXPECT_EQ(Name(Image("a", "linux/arm64"), "linux/amd64"), "a");
}

TEST_F(ImageChoiceTest, TheBestIsTakenAndNotTheFirst) {
  const Descriptor root = Index({Image("v3", "linux/amd64/v3"), Image("arm", "linux/arm64/v8"),
                                 Image("v2", "linux/amd64/v2"), Image("v1", "linux/amd64")});
  EXPECT_EQ(Name(root, "linux/amd64"), "v1");
  EXPECT_EQ(fetched_, 1u);
  EXPECT_EQ(Name(root, "linux/amd64/v2"), "v2");
  EXPECT_EQ(Name(root, "linux/amd64/v4"), "v3");
  EXPECT_EQ(Name(root, "linux/aarch64"), "arm");
  EXPECT_EQ(Name(Index({Image("one", "linux/amd64"), Image("two", "linux/amd64")}), "linux/amd64"), "one");
}

TEST_F(ImageChoiceTest, WhatThereIsIsSaid) {
  const absl::Status missing =
      Choose(Index({Image("a", "linux/arm64/v8"), WithErofs(Image("b", "linux/amd64"))}),
             {"linux", "amd64", "", {}})
          .status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()),
              HasSubstr("no image for linux/amd64; it has linux/arm64/v8, linux/amd64 (erofs)"));
}

// A mount takes the image that can be mounted, a push the other, in whichever order they stand.
TEST_F(ImageChoiceTest, FeaturesDecideBetweenEquals) {
  const Descriptor ordinary = Image("ordinary", "linux/amd64");
  const Descriptor ours = WithErofs(Image("ours", "linux/amd64"));
  for (const Descriptor& root : {Index({ordinary, ours}), Index({ours, ordinary})}) {
    EXPECT_EQ(Name(root, "linux/amd64", {"erofs"}), "ours");
    EXPECT_EQ(Name(root, "linux/amd64/v3", {"erofs"}), "ours");
    EXPECT_EQ(Name(root, "linux/amd64"), "ordinary");
  }
  EXPECT_EQ(Name(Index({ordinary}), "linux/amd64", {"erofs"}), "ordinary");
}

TEST_F(ImageChoiceTest, AnIndexInAnIndexIsOpened) {
  const Descriptor image = Image("a", "linux/amd64");
  EXPECT_EQ(Name(Index({Index({image}, "linux/amd64")}), "linux/amd64"), "a");
  EXPECT_EQ(Name(Index({Index({image})}), "linux/amd64"), "a");
  EXPECT_EQ(Name(Index({Index({Image("b", "linux/arm64")}), Index({image})}), "linux/amd64"), "a");
  // The better one may lie deeper.
  EXPECT_EQ(
      Name(Index({Image("v1", "linux/amd64"), Index({Image("v3", "linux/amd64/v3")})}), "linux/amd64/v3"),
      "v3");
  // Not for us, not asked for.
  EXPECT_THAT(Name(Index({Index({image}, "linux/arm64")}), "linux/amd64"), HasSubstr("no image for"));
  EXPECT_EQ(fetched_, 0u);
}

TEST_F(ImageChoiceTest, AnEntryWithoutPlatformIsLookedUp) {
  const std::string arm = R"({"os":"linux","architecture":"arm64"})";
  EXPECT_EQ(Name(Index({Image("arm", "", arm), Image("amd")}), "linux/amd64"), "amd");
  EXPECT_EQ(Name(Index({Image("looked"), Image("named", "linux/amd64")}), "linux/amd64"), "named");
  EXPECT_EQ(Name(Index({Image("v1", "linux/amd64"),
                        Image("v3", "", R"({"os":"linux","architecture":"amd64","variant":"v3"})")}),
                 "linux/amd64/v3"),
            "v3");
  const std::string erofs = R"({"os":"linux","architecture":"amd64","os.features":["erofs"]})";
  const Descriptor both = Index({Image("ours", "", erofs), Image("ordinary")});
  EXPECT_EQ(Name(both, "linux/amd64"), "ordinary");
  EXPECT_EQ(Name(both, "linux/amd64", {"erofs"}), "ours");
}

TEST_F(ImageChoiceTest, WhatIsNoImageIsPassedOver) {
  Descriptor attestation = Image("attestation", "unknown/unknown");
  Descriptor other = Image("other", "linux/amd64");
  other.media_type = "application/vnd.example";
  const Descriptor artifact = Image("artifact", "", "{}", media_type::kOciEmpty);
  const Descriptor nonsense = Image("nonsense", "", R"({"os":1})");
  const Descriptor gone = Entry(media_type::kOciManifest, "gone", "");
  EXPECT_EQ(Name(Index({attestation, other, artifact, nonsense, gone, Image("a")}), "linux/amd64"), "a");
  EXPECT_THAT(Name(Index({artifact, nonsense}), "linux/amd64"), HasSubstr("os: it is not a string"));
  EXPECT_THAT(Name(Index({artifact}), "linux/amd64"), HasSubstr("none with a platform"));
  EXPECT_THAT(Name(Index({}), "linux/amd64"), HasSubstr("none with a platform"));
}

// Else the choice would be another one when the registry comes back.
TEST_F(ImageChoiceTest, ARegistryThatIsAwayDecidesNothing) {
  const Descriptor looked = Image("looked");
  const Descriptor root = Index({Image("named", "linux/386"), looked});
  away_ = looked.digest;
  EXPECT_THAT(Name(root, "linux/amd64"), HasSubstr("UNAVAILABLE"));
}

TEST_F(ImageChoiceTest, ADocumentIsWhatItsEntrySays) {
  Descriptor index = Index({Image("a", "linux/amd64")});
  index.media_type = media_type::kOciManifest;
  index.platform = *Platform::Parse("linux/amd64");
  EXPECT_THAT(Name(Index({index}), "linux/amd64"), HasSubstr("it is not of the type"));
  Descriptor image = Image("a", "linux/amd64");
  image.media_type = media_type::kOciIndex;
  EXPECT_THAT(Name(Index({image}), "linux/amd64"), HasSubstr("it is not of the type"));
}

TEST_F(ImageChoiceTest, DepthIsBounded) {
  Descriptor root = Image("a", "linux/amd64");
  for (size_t i = 0; i < kIndexDepthMax; ++i) root = Index({root});
  EXPECT_EQ(Name(root, "linux/amd64"), "a");
  EXPECT_THAT(Name(Index({root}), "linux/amd64"), HasSubstr("nested deeper than 8"));
}

TEST_F(ImageChoiceTest, DocumentsAreBounded) {
  const std::string arm = R"({"os":"linux","architecture":"arm64"})";
  std::vector<Descriptor> entries;
  for (size_t i = 0; i < kIndexDocumentsMax; ++i) entries.push_back(Image(absl::StrCat("n", i), "", arm));
  // The same one again costs nothing.
  const std::vector<Descriptor> again = entries;
  entries.insert(entries.end(), again.begin(), again.end());
  EXPECT_THAT(Name(Index(entries), "linux/amd64"), HasSubstr("no image for"));
  EXPECT_EQ(fetched_, kIndexDocumentsMax);
  entries.push_back(Image("last"));
  EXPECT_THAT(Name(Index(entries), "linux/amd64"), HasSubstr("RESOURCE_EXHAUSTED"));
  EXPECT_EQ(fetched_, kIndexDocumentsMax);
}

// A hash can't be in what it is the hash of, but what a registry answers need not have the hash.
TEST_F(ImageChoiceTest, ALoopEnds) {
  const Descriptor image = Image("a", "linux/arm64");
  const Descriptor inner = Index({image});
  ImageIndex loop;
  loop.manifests = {inner};
  bodies_[inner.digest].body = SerializeIndex(loop);
  EXPECT_THAT(Name(Index({inner, inner}), "linux/amd64"), HasSubstr("none with a platform"));
  EXPECT_EQ(fetched_, 1u);
}

}  // namespace
}  // namespace sluice::p2p
