#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"

namespace sluice::p2p {

inline constexpr size_t kManifestBytesMax = 4 << 20;  // OCI distribution specification, "Pushing Manifests"
inline constexpr size_t kManifestDepthMax = 32;       // of nested JSON
inline constexpr size_t kLayersMax = 512;             // of one manifest
inline constexpr size_t kIndexEntriesMax = 1024;      // of one index

// Source: OCI image specification, media-types.md; the docker ones: distribution, "Image Manifest V 2, Schema
// 2".
namespace media_type {
inline constexpr std::string_view kOciManifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kOciConfig = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view kOciEmpty = "application/vnd.oci.empty.v1+json";
inline constexpr std::string_view kOciLayerTar = "application/vnd.oci.image.layer.v1.tar";
inline constexpr std::string_view kOciLayerTarGzip = "application/vnd.oci.image.layer.v1.tar+gzip";
inline constexpr std::string_view kOciLayerTarZstd = "application/vnd.oci.image.layer.v1.tar+zstd";
inline constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view kDockerManifestList =
    "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view kDockerConfig = "application/vnd.docker.container.image.v1+json";
inline constexpr std::string_view kDockerLayerTarGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
// Draft EROFS image specification: the data blob and the bootstrap; the second bootstrap name is only read.
inline constexpr std::string_view kOctetStream = "application/octet-stream";
inline constexpr std::string_view kErofs = "application/vnd.erofs";
inline constexpr std::string_view kErofsLayerV1 = "application/vnd.erofs.layer.v1";
// The same, compressed: the data blob in zstd's seekable format, one frame a chunk, and the bootstrap.
inline constexpr std::string_view kZstdSuffix = "+zstd";
inline constexpr std::string_view kOctetStreamZstd = "application/octet-stream+zstd";
inline constexpr std::string_view kErofsZstd = "application/vnd.erofs+zstd";
// A recipe as a referrer of an image manifest: its artifact type, and its layers' type.
inline constexpr std::string_view kRecipeArtifact = "application/vnd.sluice.recipe.v1";
inline constexpr std::string_view kTorrent = "application/x-bittorrent";
}  // namespace media_type

namespace annotation {
// Draft EROFS image specification: "device" marks a data blob that the bootstrap refers to.
inline constexpr std::string_view kErofsRole = "org.erofs.role";
inline constexpr std::string_view kErofsRoleDevice = "device";
// On the descriptor of a compressed data blob or bootstrap: the digest ("sha256:…") of its plain bytes.
inline constexpr std::string_view kUncompressedDigest = "org.erofs.uncompressed-digest";
// On the descriptor of a data blob. They are what binds a recipe to the blob, since the manifest's digest
// vouches for them: the recipe's root (64 hex digits), its chunk size and the blob's size (decimal bytes),
// all of the plain bytes. A compressed bootstrap has the size too.
inline constexpr std::string_view kBlobRoot = "io.sluice.blob.root";
inline constexpr std::string_view kBlobChunkSize = "io.sluice.blob.chunk-size";
inline constexpr std::string_view kBlobSize = "io.sluice.blob.size";
// On the descriptor of a compressed data blob of several chunks: where its seek table lies among the stored
// bytes and what it hashes to, as "OFFSET:SIZE:sha256:HEX". It is a whole skippable frame, the last one.
inline constexpr std::string_view kSeekTable = "io.sluice.blob.seek-table";
// On the descriptor of a data blob that was made from a layer. They say how, and don't matter to a reader: by
// which rule its contents were laid out, by which libzstd and level they were compressed, and the diff id
// ("sha256:…") of the layer.
inline constexpr std::string_view kBlobLayout = "io.sluice.blob.layout";
inline constexpr std::string_view kZstd = "io.sluice.zstd";
inline constexpr std::string_view kSourceDiffId = "io.sluice.source.diff-id";
// On a layer of a recipe artifact: the digest ("sha256:…") of the blob that the recipe describes.
inline constexpr std::string_view kRecipeBlob = "io.sluice.recipe.blob";
}  // namespace annotation

// What os.features of an image says that only a mount of its EROFS bootstrap can read.
inline constexpr std::string_view kOsFeatureErofs = "erofs";

using Annotations = std::map<std::string, std::string>;

// Source: OCI image specification, image-index.md, "platform".
struct Platform {
  std::string os;
  std::string architecture;
  std::string variant;  // empty if none
  std::vector<std::string> os_features;

  // Parses "os/architecture[/variant]"; other names of an architecture ("x86_64", "aarch64") are replaced by
  // Go's, as containerd does. Errors: InvalidArgument.
  static absl::StatusOr<Platform> Parse(std::string_view text);
  // The platform that this program was built for.
  static Platform Host();
  // "linux/arm64/v8"; features are left out.
  std::string ToString() const;

  friend bool operator==(const Platform&, const Platform&) = default;
};

// Source: OCI image specification, descriptor.md.
struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  Annotations annotations{};
  std::string artifact_type{};         // empty if none
  std::optional<Platform> platform{};  // only in an index

  // The annotation's value, or "" if there is none.
  std::string_view Annotation(std::string_view name) const;

  friend bool operator==(const Descriptor&, const Descriptor&) = default;
};

// Source: OCI image specification, manifest.md. A docker schema 2 manifest reads into the same fields.
struct ImageManifest {
  std::string media_type{media_type::kOciManifest};
  std::string artifact_type;  // empty if none
  Descriptor config;
  std::vector<Descriptor> layers;
  std::optional<Descriptor> subject;
  Annotations annotations;

  friend bool operator==(const ImageManifest&, const ImageManifest&) = default;
};

// Source: OCI image specification, image-index.md. A docker manifest list reads into the same fields.
struct ImageIndex {
  std::string media_type{media_type::kOciIndex};
  std::vector<Descriptor> manifests;
  Annotations annotations;

  friend bool operator==(const ImageIndex&, const ImageIndex&) = default;
};

using Manifest = std::variant<ImageManifest, ImageIndex>;

// Parses what a registry gave for a manifest. `content_type` is its Content-Type header, "" if unknown; it
// must agree with the document's own mediaType, and the document must not be both a manifest and an index.
// Errors: InvalidArgument (no JSON, a missing or wrong field, a limit above), which names the field;
// Unimplemented (a media type that is none of the four above, e.g. docker schema 1).
absl::StatusOr<Manifest> ParseManifest(std::string_view bytes, std::string_view content_type);

// The canonical bytes: keys sorted, no white space, empty fields left out. Same value, same bytes, same
// digest.
std::string SerializeManifest(const ImageManifest& manifest);
std::string SerializeIndex(const ImageIndex& index);

// The part of an image's configuration that we read. Source: OCI image specification, config.md.
struct ImageConfig {
  Platform platform;
  std::vector<std::string> diff_ids;  // as they stand there, of whatever algorithm
};

// Text that is no Unicode is replaced (see WithReplacedText). Errors: InvalidArgument, which names the field.
absl::StatusOr<ImageConfig> ParseImageConfig(std::string_view bytes);

// The configuration of a lazy image made from another image's: all that tells how to run it is kept,
// os.features gets "erofs", rootfs.diff_ids become `diff_ids`, and the history is marked as having no layers,
// then gets one entry per diff id. An empty `source` gives the minimal configuration for `platform`. Errors:
// InvalidArgument if `source` is no image configuration, which ParseImageConfig says before there is anything
// else to be known.
absl::StatusOr<std::string> MakeLazyConfig(std::string_view source, const Platform& platform,
                                           std::span<const Digest> diff_ids);

}  // namespace sluice::p2p
