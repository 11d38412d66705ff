#include "p2p/registry/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;

const char kHexA[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const char kHexB[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const char kHexC[] = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
const BlobOrigin kOrigin{"r.example", "app"};

std::string DescriptorJson(const std::string& type, const std::string& hex, const std::string& size,
                           const std::string& more = "") {
  return absl::StrCat(R"({"mediaType":")", type, R"(","digest":"sha256:)", hex, R"(","size":)", size, more,
                      "}");
}

std::string ManifestJson(const std::string& layers) {
  return absl::StrCat(
      R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":)",
      DescriptorJson("application/vnd.oci.image.config.v1+json", kHexC, "2"), R"(,"layers":[)", layers, "]}");
}

std::string DeviceLayer(const std::string& hex, const std::string& size, const std::string& annotations) {
  return DescriptorJson("application/octet-stream", hex, size,
                        absl::StrCat(R"(,"annotations":{"org.erofs.role":"device")", annotations, "}"));
}

std::string BootstrapLayer() {
  return DescriptorJson("application/vnd.erofs", kHexB, "4096");
}

absl::StatusOr<std::optional<LazyImage>> Lazy(const std::string& layers) {
  absl::StatusOr<Manifest> manifest = ParseManifest(ManifestJson(layers), "");
  if (!manifest.ok()) return manifest.status();
  return FindLazyImage(std::get<ImageManifest>(*manifest), kOrigin);
}

void ExpectInvalid(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

TEST(Manifest, ReadsWhatItWrote) {
  ImageManifest manifest;
  manifest.artifact_type = "application/x";
  manifest.config = {.media_type = "a/b", .digest = *Digest::ParseHex(kHexC), .size = 2};
  manifest.layers = {{.media_type = "c/d",
                      .digest = *Digest::ParseHex(kHexA),
                      .size = 1ull << 40,
                      .annotations = {{"k", "v\"\n"}}}};
  manifest.subject = manifest.config;
  manifest.annotations = {{"x", "y"}};
  const std::string bytes = SerializeManifest(manifest);
  const absl::StatusOr<Manifest> parsed =
      ParseManifest(bytes, "application/vnd.oci.image.manifest.v1+json; charset=x");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(std::get<ImageManifest>(*parsed), manifest);
  EXPECT_EQ(SerializeManifest(std::get<ImageManifest>(*parsed)), bytes);
}

TEST(Manifest, CanonicalBytesDoNotChange) {
  ImageManifest manifest;
  manifest.config = {.media_type = "a/b", .digest = *Digest::ParseHex(kHexC), .size = 2};
  EXPECT_EQ(
      SerializeManifest(manifest),
      absl::StrCat(R"({"config":{"digest":"sha256:)", kHexC, R"(","mediaType":"a/b","size":2},"layers":[],)",
                   R"("mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2})"));
}

TEST(Manifest, ReadsDockersTypesToo) {
  const std::string docker =
      absl::StrReplaceAll(ManifestJson(""), {{"application/vnd.oci.image.manifest.v1+json",
                                              "application/vnd.docker.distribution.manifest.v2+json"}});
  EXPECT_TRUE(std::holds_alternative<ImageManifest>(*ParseManifest(docker, "")));
  const std::string list = R"({"schemaVersion":2,"manifests":[]})";
  EXPECT_TRUE(std::holds_alternative<ImageIndex>(
      *ParseManifest(list, "application/vnd.docker.distribution.manifest.list.v2+json")));
}

TEST(Manifest, RefusesOtherTypes) {
  EXPECT_EQ(ParseManifest("{}", "application/vnd.docker.distribution.manifest.v1+prettyjws").status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(Manifest, RefusesAmbiguity) {
  ExpectInvalid(ParseManifest(ManifestJson(""), "application/vnd.oci.image.index.v1+json").status(),
                "mediaType");
  ExpectInvalid(ParseManifest(R"({"schemaVersion":2,"manifests":[],"layers":[]})", "").status(), "both");
}

TEST(Manifest, RefusesNonsense) {
  for (const std::string& bytes :
       {std::string(), std::string("no"), std::string("[]"), std::string("{"), std::string("\"x\""),
        std::string("{\"a\":\"\xff\"}"), std::string("{}")}) {
    EXPECT_EQ(ParseManifest(bytes, "").status().code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
}

TEST(Manifest, RefusesWhatIsTooLarge) {
  ExpectInvalid(ParseManifest(std::string(kManifestBytesMax + 1, ' '), "").status(), "more than");
}

TEST(Manifest, RefusesWhatIsTooDeep) {
  const std::string deep = absl::StrCat(R"({"a":)", std::string(1000000, '['), "}");
  ExpectInvalid(ParseManifest(deep, "").status(), "nested");
  // Brackets in strings are no nesting.
  const std::string flat = absl::StrReplaceAll(
      ManifestJson(""),
      {{"{\"schemaVersion\"", absl::StrCat("{\"x\":\"\\\"", std::string(100, '['), "\",\"schemaVersion\"")}});
  EXPECT_TRUE(ParseManifest(flat, "").ok());
}

TEST(Manifest, RefusesTooManyLayers) {
  std::string layers;
  for (size_t i = 0; i <= kLayersMax; ++i) {
    absl::StrAppend(&layers, i == 0 ? "" : ",", DescriptorJson("a/b", kHexA, "1"));
  }
  ExpectInvalid(ParseManifest(ManifestJson(layers), "").status(), "layers");
}

TEST(Manifest, RefusesBadDescriptors) {
  for (const char* size :
       {"-1", "1.5", "1e3", "\"1\"", "null", "18446744073709551615", "99999999999999999999999"}) {
    ExpectInvalid(ParseManifest(ManifestJson(DescriptorJson("a/b", kHexA, size)), "").status(),
                  "layers[0].size");
  }
  for (const char* hex : {"../../etc/passwd", "AAAA", ""}) {
    ExpectInvalid(ParseManifest(ManifestJson(DescriptorJson("a/b", hex, "1")), "").status(),
                  "layers[0].digest");
  }
  ExpectInvalid(ParseManifest(ManifestJson("7"), "").status(), "layers[0]");
  ExpectInvalid(ParseManifest(ManifestJson(DescriptorJson("", kHexA, "1")), "").status(), "mediaType");
  ExpectInvalid(
      ParseManifest(ManifestJson(DescriptorJson("a/b", kHexA, "1", R"(,"annotations":{"x":1})")), "")
          .status(),
      "annotations");
}

TEST(ImageIndex, ReadsBackAsItWasWritten) {
  const std::string bytes = absl::StrCat(
      R"({"schemaVersion":2,"manifests":[)",
      DescriptorJson(
          "application/vnd.oci.image.manifest.v1+json", kHexA, "7",
          R"(,"platform":{"os":"linux","architecture":"arm64","variant":"v8","os.features":["erofs"]})"),
      "]}");
  const absl::StatusOr<Manifest> parsed = ParseManifest(bytes, "");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const ImageIndex& index = std::get<ImageIndex>(*parsed);
  EXPECT_EQ(index.manifests[0].platform->ToString(), "linux/arm64/v8");
  EXPECT_EQ(std::get<ImageIndex>(*ParseManifest(SerializeIndex(index), "")), index);
}

TEST(Platform, RefusesNonsense) {
  for (const char* text : {"", "linux", "linux/", "/amd64", "linux/a/b/c", "linux/am d64"}) {
    EXPECT_FALSE(Platform::Parse(text).ok()) << text;
  }
}

TEST(LazyImage, OrdinaryImageIsNone) {
  const auto lazy = Lazy(DescriptorJson("application/vnd.oci.image.layer.v1.tar+gzip", kHexA, "10"));
  ASSERT_TRUE(lazy.ok()) << lazy.status();
  EXPECT_FALSE(lazy->has_value());
}

TEST(LazyImage, ReadsBlobsAndBootstrap) {
  const auto lazy = Lazy(
      DeviceLayer(kHexA, "1000000",
                  absl::StrCat(R"(,"io.sluice.blob.root":")", kHexC,
                               R"(","io.sluice.blob.chunk-size":"65536","io.sluice.blob.size":"1000000")")) +
      "," + BootstrapLayer());
  ASSERT_TRUE(lazy.ok()) << lazy.status();
  ASSERT_TRUE(lazy->has_value());
  EXPECT_EQ((*lazy)->bootstrap.digest.Hex(), kHexB);
  ASSERT_EQ((*lazy)->blobs.size(), 1u);
  const BlobSpec& blob = (*lazy)->blobs[0];
  EXPECT_EQ(blob.digest.Hex(), kHexA);
  EXPECT_EQ(blob.size, 1000000u);
  EXPECT_EQ(blob.chunk_size, 65536u);
  EXPECT_EQ(blob.root->Hex(), kHexC);
  EXPECT_EQ(blob.origins, std::vector{kOrigin});
}

TEST(LazyImage, WithoutAnnotationsABlobHasNoRoot) {
  const auto lazy = Lazy(DeviceLayer(kHexA, "5", "") + "," +
                         DescriptorJson("application/vnd.erofs.layer.v1", kHexB, "4096"));
  ASSERT_TRUE(lazy.ok() && lazy->has_value());
  EXPECT_FALSE((*lazy)->blobs[0].root.has_value());
  EXPECT_EQ((*lazy)->blobs[0].chunk_size, kChunkSizeDefault);
}

TEST(LazyImage, RefusesWhatCanNotBeMounted) {
  const std::string device = DeviceLayer(kHexA, "5", "");
  ExpectInvalid(Lazy(device).status(), "0 EROFS bootstraps");
  ExpectInvalid(Lazy(BootstrapLayer() + "," + BootstrapLayer()).status(), "2 EROFS bootstraps");
  ExpectInvalid(Lazy(device + "," + device + "," + BootstrapLayer()).status(), "twice");
  ExpectInvalid(Lazy(BootstrapLayer() + "," + DescriptorJson("a/tar", kHexA, "5")).status(),
                "missing from the mount");
  ExpectInvalid(Lazy(DeviceLayer(kHexA, "0", "") + "," + BootstrapLayer()).status(), "empty");
}

TEST(LazyImage, RefusesContradictingAnnotations) {
  for (const char* annotation :
       {R"(,"io.sluice.blob.size":"6")", R"(,"io.sluice.blob.size":"-5")", R"(,"io.sluice.blob.size":"5 ")",
        R"(,"io.sluice.blob.chunk-size":"1000")", R"(,"io.sluice.blob.chunk-size":"4294967296")",
        R"(,"io.sluice.blob.root":"../..")", R"(,"io.sluice.blob.chunk-size":"99999999999999999999")"}) {
    ExpectInvalid(Lazy(DeviceLayer(kHexA, "5", annotation) + "," + BootstrapLayer()).status(), "layers[0]");
  }
}

TEST(ImageConfig, KeepsHowToRunAndReplacesLayers) {
  const std::string source = absl::StrCat(
      R"({"architecture":"arm64","os":"linux","config":{"Cmd":["python3"],"X":null},"history":[{"created_by":"a"}],)",
      R"("os.features":["f"],"rootfs":{"type":"layers","diff_ids":["sha256:)", kHexC, R"("]}})");
  const std::vector<Digest> ids = {*Digest::ParseHex(kHexA), *Digest::ParseHex(kHexB)};
  const absl::StatusOr<std::string> lazy = MakeLazyConfig(source, Platform::Host(), ids);
  ASSERT_TRUE(lazy.ok()) << lazy.status();
  EXPECT_THAT(*lazy, HasSubstr(R"("config":{"Cmd":["python3"],"X":null})"));
  EXPECT_THAT(*lazy, HasSubstr(R"({"created_by":"a","empty_layer":true})"));
  const absl::StatusOr<ImageConfig> config = ParseImageConfig(*lazy);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->diff_ids, ::testing::ElementsAre(ids[0].ToString(), ids[1].ToString()));
  EXPECT_EQ(config->platform.architecture, "arm64");
  EXPECT_THAT(config->platform.os_features, ::testing::ElementsAre("f", "erofs"));
  EXPECT_EQ(*MakeLazyConfig(source, Platform::Host(), ids), *lazy);
}

TEST(ImageConfig, RefusesNonsense) {
  for (const char* bytes : {"", "[]", R"({"rootfs":1})", R"({"rootfs":{"diff_ids":[7]}})", R"({"os":7})",
                            R"({"rootfs":{"diff_ids":{}}})"}) {
    EXPECT_FALSE(ParseImageConfig(bytes).ok()) << bytes;
  }
  EXPECT_FALSE(MakeLazyConfig("[]", Platform::Host(), {}).ok());
}

}  // namespace
}  // namespace sluice::p2p
