#pragma once

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/image/blob_compressor.h"
#include "p2p/recipe/recipe.h"
#include "p2p/registry/manifest.h"

namespace sluice {

// Data blobs that registries have already, by what manifests say of them: what has the same plain bytes need
// not be compressed and sent again. What a manifest says is believed of its own repository only, and only
// that a blob is there is asked of the registry.
//
// One thread at a time.
class ReusableBlobs {
 public:
  struct Found {
    p2p::Descriptor descriptor;
    BlobOrigin origin;
  };

  // Takes note of an image's data blobs; one of the same bytes that was added before stays in front. Nothing
  // is taken of an image that can't be mounted.
  void Add(const BlobOrigin& origin, const p2p::ImageManifest& manifest);

  // The blobs of these bytes, laid out and cut like this, in the order they were added; with kNone those that
  // are plain, with kZstd those that were compressed, or did not shrink. A registry may have lost some.
  std::vector<Found> Find(const p2p::Recipe& recipe, Compression::Kind kind) const;

 private:
  absl::flat_hash_map<Digest, std::vector<Found>> found_;  // by the digest of their plain bytes
};

}  // namespace sluice
