#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "p2p/registry/manifest.h"

namespace sluice::p2p {

inline constexpr size_t kDevicesMax = 500;  // of one lazy image

// An image whose files can be mounted before they are there.
struct LazyImage {
  BlobSpec bootstrap;           // the EROFS image with the metadata; must be complete before the mount
  std::vector<BlobSpec> blobs;  // its devices, in order; empty if no file has bytes
};

// What is lazy in an image: its one layer of media type application/vnd.erofs (or +zstd, or .layer.v1) is the
// bootstrap, the layers with the role "device" are its blobs, each with a root if annotated. A blob is what
// its plain bytes are, whatever is stored: digest, size and chunk size are of those. nullopt if the image is
// an ordinary one, with neither. Every blob gets `origin`. Errors: InvalidArgument if the image has some of
// it but can't be mounted (devices without bootstrap, two bootstraps, a bootstrap as device, tar layers
// beside them, a blob twice, more than kDevicesMax; a compressed one without its plain digest or size, or a
// device without root or, with several chunks, seek table; annotations that are malformed or contradict the
// descriptor). It names the layer.
absl::StatusOr<std::optional<LazyImage>> FindLazyImage(const ImageManifest& manifest,
                                                       const BlobOrigin& origin);

}  // namespace sluice::p2p
