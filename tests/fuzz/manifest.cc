#include "p2p/registry/manifest.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "p2p/registry/lazy_image.h"
#include "p2p/registry/platform_match.h"
#include "taken.h"

using namespace sluice::p2p;

namespace {

sluice::fuzz::Parser manifest_parser("image manifests");
sluice::fuzz::Parser lazy_parser("lazy images");
sluice::fuzz::Parser index_parser("indexes");
sluice::fuzz::Parser config_parser("image configurations");

void Require(bool holds) {
  if (!holds) std::abort();
}

// The lazy image's configuration runs as the other's does, on its own layers.
void CheckConfig(std::string_view bytes) {
  const absl::StatusOr<ImageConfig> config = ParseImageConfig(bytes);
  if (!config.ok()) return;
  config_parser.Took();
  const std::vector<sluice::Digest> diff_ids(2);
  const absl::StatusOr<std::string> lazy = MakeLazyConfig(bytes, config->platform, diff_ids);
  Require(lazy.ok());
  const absl::StatusOr<ImageConfig> again = ParseImageConfig(*lazy);
  Require(again.ok() && again->diff_ids == std::vector<std::string>(2, sluice::Digest().ToString()));
  Require(again->platform.os == config->platform.os &&
          again->platform.architecture == config->platform.architecture &&
          again->platform.variant == config->platform.variant);
  const std::vector<std::string>& features = again->platform.os_features;
  Require(std::find(features.begin(), features.end(), kOsFeatureErofs) != features.end());
}

void CheckImage(const ImageManifest& image) {
  manifest_parser.Took();
  const std::string written = SerializeManifest(image);
  const absl::StatusOr<Manifest> again = ParseManifest(written, image.media_type);
  Require(again.ok() && std::get<ImageManifest>(*again) == image);
  Require(SerializeManifest(std::get<ImageManifest>(*again)) == written);
  const absl::StatusOr<std::optional<LazyImage>> lazy = FindLazyImage(image, {"registry.example", "app"});
  if (!lazy.ok() || !*lazy) return;
  lazy_parser.Took();
  Require((*lazy)->blobs.size() < image.layers.size());
  for (const sluice::BlobSpec& blob : (*lazy)->blobs) {
    Require(sluice::ChunkGeometry::Validate(blob.size, blob.chunk_size).ok());
  }
}

void CheckIndex(const ImageIndex& index) {
  index_parser.Took();
  const std::string written = SerializeIndex(index);
  const absl::StatusOr<Manifest> again = ParseManifest(written, index.media_type);
  Require(again.ok() && std::get<ImageIndex>(*again) == index);
  Require(SerializeIndex(std::get<ImageIndex>(*again)) == written);
  for (const Descriptor& entry : index.manifests) {
    // Whatever an index says runs on what is the same, and never better than that.
    if (entry.platform) Require(PlatformRank(*entry.platform, *entry.platform) == 0);
  }
}

}  // namespace

// What is taken can be written, and reads back the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  CheckConfig(bytes);
  const absl::StatusOr<Manifest> manifest = ParseManifest(bytes, "");
  if (!manifest.ok()) return 0;
  if (const auto* image = std::get_if<ImageManifest>(&*manifest)) {
    CheckImage(*image);
  } else {
    CheckIndex(std::get<ImageIndex>(*manifest));
  }
  return 0;
}
