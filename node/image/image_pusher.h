#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "node/digest.h"
#include "node/image/erofs_builder.h"
#include "node/image/layer_flattener.h"
#include "node/image/progress.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/reference.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

struct ImagePushRequest {
  // A directory (a path that exists, or starts with '/' or '.'), or an image reference.
  std::string source;
  p2p::ImageReference target;
  p2p::Platform platform =
      p2p::Platform::Host();           // to take of an index; what a directory's image says of itself
  std::optional<uint32_t> chunk_size;  // of the recipe, bytes; unset: by the blob's size
  FlattenLimits limits;
};

// What was pushed.
struct PushedImage {
  p2p::ImageReference target;
  Digest manifest;
  std::optional<Digest> recipe_manifest;  // none if there is no blob
  p2p::Descriptor bootstrap;
  std::vector<p2p::Descriptor> blobs;
};

// Makes a lazy image of a directory or of another image, and pushes it: blob, bootstrap, configuration, then
// the recipe as a referrer of the manifest, the manifest last, so that who finds the image finds all of it.
// Names follow the draft EROFS image specification: layers[0] the blob, layers[1] the bootstrap.
//
// Blocks; one thread at a time. Its files lie in a ScratchDirectory.
class ImagePusher {
 public:
  // Both outlive the pusher.
  ImagePusher(p2p::RegistryClient& registry, ProgressSink& progress)
      : registry_(registry), progress_(progress) {}

  // Errors: InvalidArgument (the source is neither a directory nor a reference, or its layers can't be
  // flattened), FailedPrecondition (the source is a lazy image already), and those of RegistryClient,
  // LayerFlattener and BuildErofsImage. Nothing is tagged after an error.
  absl::StatusOr<PushedImage> Push(const ImagePushRequest& request);

 private:
  struct Source {
    std::string directory;
    std::string config;  // JSON; empty for a directory
  };

  absl::StatusOr<Source> Flatten(const ImagePushRequest& request, const std::string& work_directory);
  absl::StatusOr<PushedImage> PushParts(const ImagePushRequest& request, const ErofsImage& image,
                                        const std::string& config);
  absl::Status PushFile(const BlobOrigin& origin, const p2p::Descriptor& blob, const std::string& path,
                        std::string_view step);
  absl::StatusOr<p2p::Descriptor> PushBytes(const BlobOrigin& origin, std::string_view media_type,
                                            const std::string& bytes);
  absl::StatusOr<Digest> PushRecipe(const BlobOrigin& origin, const p2p::Recipe& recipe,
                                    const p2p::Descriptor& subject);

  p2p::RegistryClient& registry_;
  ProgressSink& progress_;
};

}  // namespace sluice
