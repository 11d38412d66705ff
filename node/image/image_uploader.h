#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/image/progress.h"
#include "node/image/source_image.h"
#include "p2p/recipe/recipe.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// A blob as a registry gets it.
struct BlobUpload {
  p2p::Descriptor descriptor;
  std::string path;  // of its bytes; empty: the registry has them
};

// Sends the parts of an image to one repository.
//
// Blocks; one thread at a time. Errors of all calls: those of RegistryClient and of reading files.
class ImageUploader {
 public:
  // All outlive the uploader.
  ImageUploader(p2p::RegistryClient& registry, ProgressSink& progress, const BlobOrigin& target)
      : registry_(registry), progress_(progress), target_(target) {}

  absl::Status PushFile(const BlobUpload& upload, std::string_view step);
  absl::StatusOr<p2p::Descriptor> PushBytes(std::string_view media_type, const std::string& bytes);
  // Under its digest.
  absl::StatusOr<p2p::Descriptor> PushManifest(const p2p::ImageManifest& manifest);

  // As a referrer of `subject`: those of blobs of several chunks, for the root alone proves one chunk. None
  // if there is none; then nothing is sent.
  absl::StatusOr<std::optional<Digest>> PushRecipes(std::span<const p2p::Recipe* const> recipes,
                                                    const p2p::Descriptor& subject);

  // As a referrer of `subject`: what starts of it read, made now. Gives the artifact's digest.
  absl::StatusOr<Digest> PushProfile(const std::string& document, const p2p::Descriptor& subject,
                                     absl::Time now);

  // Copies an image as it is: its layers lie in `layer_paths`, in their order. Gives its descriptor.
  absl::StatusOr<p2p::Descriptor> PushCopy(const RemoteImage& image,
                                           const std::vector<std::string>& layer_paths,
                                           const std::string& config);

 private:
  absl::StatusOr<Digest> PushArtifact(p2p::ImageManifest manifest);

  p2p::RegistryClient& registry_;
  ProgressSink& progress_;
  const BlobOrigin& target_;
};

}  // namespace sluice
