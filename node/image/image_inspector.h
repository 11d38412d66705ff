#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "node/image/source_image.h"
#include "p2p/registry/lazy_image.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/reference.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// What a registry says of an image.
struct ImageReport {
  RemoteImage image;
  p2p::ImageConfig config;
  std::optional<p2p::LazyImage> lazy;  // none: an ordinary image
  std::vector<Digest> recipe_blobs;  // blobs whose recipes refer to the image; what they hold is not checked
};

// Errors: as ResolveRemoteImage; InvalidArgument if the image is neither an ordinary nor a sound lazy one.
// Blocks.
absl::StatusOr<ImageReport> InspectImage(p2p::RegistryClient& registry, const p2p::ImageReference& reference,
                                         const p2p::Platform& platform);

}  // namespace sluice
