#include "node/image/image_inspector.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

constexpr size_t kReferrersMax = 16;  // looked into

absl::StatusOr<std::vector<Digest>> FindRecipes(p2p::RegistryClient& registry, const RemoteImage& image) {
  const BlobOrigin& origin = image.reference.origin;
  absl::StatusOr<std::vector<p2p::Descriptor>> referrers =
      registry.ListReferrers(origin, image.digest, std::string(p2p::media_type::kRecipeArtifact));
  if (!referrers.ok()) return referrers.status();
  std::vector<Digest> blobs;
  for (size_t i = 0; i < referrers->size() && i < kReferrersMax; ++i) {
    absl::StatusOr<p2p::FetchedManifest> fetched = registry.FetchManifest(
        origin, (*referrers)[i].digest.ToString(), {std::string(p2p::media_type::kOciManifest)});
    if (!fetched.ok()) return fetched.status();
    absl::StatusOr<p2p::Manifest> parsed = p2p::ParseManifest(fetched->body, fetched->media_type);
    if (!parsed.ok() || !std::holds_alternative<p2p::ImageManifest>(*parsed)) continue;
    for (const p2p::Descriptor& layer : std::get<p2p::ImageManifest>(*parsed).layers) {
      absl::StatusOr<Digest> blob = Digest::Parse(layer.Annotation(p2p::annotation::kRecipeBlob));
      if (layer.media_type == p2p::media_type::kTorrent && blob.ok()) blobs.push_back(*blob);
    }
  }
  return blobs;
}

}  // namespace

absl::StatusOr<ImageReport> InspectImage(p2p::RegistryClient& registry, const p2p::ImageReference& reference,
                                         const p2p::Platform& platform) {
  // What would be mounted.
  p2p::Platform wanted = platform;
  wanted.os_features.emplace_back(p2p::kOsFeatureErofs);
  absl::StatusOr<RemoteImage> image = ResolveRemoteImage(registry, reference, wanted);
  if (!image.ok()) return image.status();
  absl::StatusOr<std::optional<p2p::LazyImage>> lazy = p2p::FindLazyImage(image->manifest, reference.origin);
  if (!lazy.ok()) {
    return absl::Status(lazy.status().code(),
                        absl::StrCat(reference.ToString(), ": ", lazy.status().message()));
  }
  absl::StatusOr<std::string> config_bytes =
      registry.FetchWholeBlob(reference.origin, image->manifest.config.digest, p2p::kManifestBytesMax);
  if (!config_bytes.ok()) return config_bytes.status();
  absl::StatusOr<p2p::ImageConfig> config = p2p::ParseImageConfig(*config_bytes);
  if (!config.ok()) return config.status();
  ImageReport report{*std::move(image), *std::move(config), *std::move(lazy), {}};
  if (report.lazy) {
    absl::StatusOr<std::vector<Digest>> recipes = FindRecipes(registry, report.image);
    if (!recipes.ok()) return recipes.status();
    report.recipe_blobs = *std::move(recipes);
  }
  return report;
}

}  // namespace sluice
