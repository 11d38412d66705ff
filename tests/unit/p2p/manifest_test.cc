#include "p2p/registry/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "p2p/registry/lazy_image.h"

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;

const char kHexA[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const char kHexB[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const char kHexC[] = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
const char kHexD[] = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";
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

// A compressed device of three chunks: 40,000 plain bytes, 9,000 stored ones, of which the last 41 are the
// table. What is not empty replaces an annotation; "-" takes it away.
struct CompressedDevice {
  std::string plain = absl::StrCat("sha256:", kHexA);
  std::string size = "40000";
  std::string chunk_size = "16384";
  std::string root = kHexC;
  std::string seek_table = absl::StrCat("8959:41:sha256:", kHexC);
  std::string stored_hex = kHexD;
  std::string stored_size = "9000";
  std::string type = "application/octet-stream+zstd";
  std::string role = "device";

  std::string Json() const {
    std::string annotations;
    const auto add = [&](const char* name, const std::string& value) {
      if (value == "-") return;
      absl::StrAppend(&annotations, annotations.empty() ? "" : ",", "\"", name, "\":\"", value, "\"");
    };
    add("org.erofs.role", role);
    add("org.erofs.uncompressed-digest", plain);
    add("io.sluice.blob.size", size);
    add("io.sluice.blob.chunk-size", chunk_size);
    add("io.sluice.blob.root", root);
    add("io.sluice.blob.seek-table", seek_table);
    return DescriptorJson(type, stored_hex, stored_size,
                          absl::StrCat(R"(,"annotations":{)", annotations, "}"));
  }
};

std::string CompressedBootstrap(const std::string& more = R"(,"io.sluice.blob.size":"20480")") {
  return DescriptorJson(
      "application/vnd.erofs+zstd", kHexC, "4000",
      absl::StrCat(R"(,"annotations":{"org.erofs.uncompressed-digest":"sha256:)", kHexB, "\"", more, "}"));
}

absl::Status Refusal(const CompressedDevice& device) {
  return Lazy(device.Json() + "," + CompressedBootstrap()).status();
}

TEST(LazyImage, ACompressedBlobIsWhatItsPlainBytesAre) {
  const auto lazy = Lazy(CompressedDevice{}.Json() + "," + CompressedBootstrap());
  ASSERT_TRUE(lazy.ok() && lazy->has_value()) << lazy.status();
  ASSERT_EQ((*lazy)->blobs.size(), 1u);
  const BlobSpec& blob = (*lazy)->blobs[0];
  EXPECT_EQ(blob.digest.Hex(), kHexA);
  EXPECT_EQ(blob.size, 40000u);
  EXPECT_EQ(blob.chunk_size, 16384u);
  EXPECT_EQ(blob.root->Hex(), kHexC);
  EXPECT_EQ(blob.origins, std::vector{kOrigin});
  const StoredForm* const stored = blob.StoredAt(kOrigin);
  ASSERT_TRUE(stored);
  EXPECT_EQ(stored->digest.Hex(), kHexD);
  EXPECT_EQ(stored->size, 9000u);
  EXPECT_EQ(stored->seek_table, (SeekTablePlace{{8959, 41}, *Digest::ParseHex(kHexC)}));
  EXPECT_FALSE(blob.StoredAt({"r.example", "other"}));

  const BlobSpec& bootstrap = (*lazy)->bootstrap;
  EXPECT_EQ(bootstrap.digest.Hex(), kHexB);
  EXPECT_EQ(bootstrap.size, 20480u);
  ASSERT_TRUE(bootstrap.StoredAt(kOrigin));
  EXPECT_EQ(*bootstrap.StoredAt(kOrigin), (StoredForm{*Digest::ParseHex(kHexC), 4000, std::nullopt}));
}

TEST(LazyImage, APlainBlobIsStoredAsItIs) {
  CompressedDevice device{.size = "5", .seek_table = "-", .stored_hex = kHexA, .stored_size = "5"};
  device.type = "application/octet-stream";
  const auto lazy = Lazy(device.Json() + "," + BootstrapLayer());
  ASSERT_TRUE(lazy.ok() && lazy->has_value()) << lazy.status();
  EXPECT_FALSE((*lazy)->blobs[0].StoredAt(kOrigin));
  EXPECT_FALSE((*lazy)->bootstrap.StoredAt(kOrigin));
  device.plain = absl::StrCat("sha256:", kHexB);
  ExpectInvalid(Refusal(device), "layers[0]: annotation org.erofs.uncompressed-digest");
  device.plain = absl::StrCat("sha256:", kHexA);
  device.seek_table = absl::StrCat("8959:41:sha256:", kHexC);
  ExpectInvalid(Refusal(device), "the layer is not compressed");
}

TEST(LazyImage, ABlobOfOneChunkNeedsNoSeekTable) {
  EXPECT_TRUE(Refusal({.size = "16384", .seek_table = "-"}).ok());
  EXPECT_TRUE(Refusal({.size = "16384", .seek_table = absl::StrCat("8975:25:sha256:", kHexC)}).ok());
  ExpectInvalid(
      Refusal({.size = "16385", .seek_table = "-"}),
      "layers[0]: annotation io.sluice.blob.seek-table: it is missing; the layer is compressed and has 2");
}

TEST(LazyImage, RefusesACompressedBlobThatCanNotBeProven) {
  ExpectInvalid(Refusal({.plain = "-"}),
                "layers[0]: annotation org.erofs.uncompressed-digest: it is missing");
  ExpectInvalid(Refusal({.plain = "sha256:7"}), "layers[0]: annotation org.erofs.uncompressed-digest");
  ExpectInvalid(Refusal({.size = "-"}), "layers[0]: annotation io.sluice.blob.size: it is missing");
  ExpectInvalid(Refusal({.size = "0"}), "layers[0]: it is empty");
  ExpectInvalid(Refusal({.size = "99999999999999"}), "layers[0]: annotation io.sluice.blob.size");
  ExpectInvalid(Refusal({.root = "-"}), "layers[0]: annotation io.sluice.blob.root: it is missing");
  ExpectInvalid(Refusal({.stored_size = "0"}), "layers[0]: it is empty");
}

TEST(LazyImage, RefusesASeekTableThatIsNotTheLastThing) {
  const std::string digest = absl::StrCat("sha256:", kHexC);
  for (const char* place : {"8958:41:", "8960:41:", "8960:40:", "0:9000:", "9000:0:", "8906:94:", "8946:54:",
                            "18446744073709551575:41:", "41:", "8959:", ":41:", "-1:41:", "8959:41:41:",
                            "8959 :41:", "18446744073709551616:41:"}) {
    ExpectInvalid(Refusal({.seek_table = place + digest}), "layers[0]: annotation io.sluice.blob.seek-table");
  }
  ExpectInvalid(Refusal({.seek_table = "8959:41:sha512:77"}),
                "layers[0]: annotation io.sluice.blob.seek-table");
  EXPECT_TRUE(Refusal({.seek_table = "8947:53:" + digest}).ok()) << "with checksums";
}

TEST(LazyImage, RefusesACompressedBootstrapOfUnknownSize) {
  ExpectInvalid(Lazy(CompressedDevice{}.Json() + "," + CompressedBootstrap("")).status(),
                "layers[1]: annotation io.sluice.blob.size: it is missing");
  ExpectInvalid(Lazy(DescriptorJson("application/vnd.erofs+zstd", kHexC, "4000")).status(),
                "layers[0]: annotation org.erofs.uncompressed-digest: it is missing");
}

TEST(LazyImage, RefusesRolesThatAreSwapped) {
  ExpectInvalid(Refusal({.role = "-"}), "layers[0]: a layer of type \"application/octet-stream+zstd\"");
  ExpectInvalid(Lazy(CompressedDevice{}.Json() + "," +
                     CompressedBootstrap(R"(,"io.sluice.blob.size":"20480","org.erofs.role":"device")"))
                    .status(),
                "layers[1]: annotation org.erofs.role");
}

TEST(LazyImage, RefusesABlobWithTwoRoots) {
  const std::string other =
      CompressedDevice{
          .root = kHexB, .seek_table = absl::StrCat("8959:41:sha256:", kHexB), .stored_hex = kHexB}
          .Json();
  ExpectInvalid(Lazy(CompressedDevice{}.Json() + "," + other + "," + CompressedBootstrap()).status(),
                "layers[1]: the same blob is a device twice, with two roots");
  ExpectInvalid(Lazy(CompressedDevice{}.Json() + "," + CompressedDevice{.stored_hex = kHexB}.Json() + "," +
                     CompressedBootstrap())
                    .status(),
                "layers[1]: the same blob is a device twice");
}

TEST(LazyImage, HasUpTo500Devices) {
  std::string layers = CompressedBootstrap();
  const auto add = [&](int n) {
    const std::string hex = absl::StrCat(std::string(60, 'e'), absl::Dec(n, absl::kZeroPad4));
    absl::StrAppend(&layers, ",", CompressedDevice{.plain = "sha256:" + hex, .stored_hex = hex}.Json());
  };
  for (int i = 0; i < 500; ++i) add(i);
  EXPECT_EQ((*Lazy(layers))->blobs.size(), 500u);
  add(500);
  ExpectInvalid(Lazy(layers).status(), "layers[501]: it is one device too many: 500");
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
