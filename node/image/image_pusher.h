#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "node/digest.h"
#include "node/image/blob_compressor.h"
#include "node/image/image_builder.h"
#include "node/image/image_uploader.h"
#include "node/image/layer_limits.h"
#include "node/image/progress.h"
#include "node/image/reusable_blobs.h"
#include "node/image/scratch_directory.h"
#include "node/image/source_image.h"
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
  std::optional<uint32_t> chunk_size;  // of the data blobs, bytes; unset: by their sizes
  Compression compression;
  std::vector<p2p::ImageReference> reuse;  // images whose data blobs are taken where they are the same
  // Whether the tag becomes an index of the source as it is and of the lazy image, for a cluster of which a
  // part can't mount yet. Only of images.
  enum class Source { kLeave, kPushToo };
  Source with_source = Source::kLeave;
  LayerLimits limits;
};

// What was pushed.
struct PushedImage {
  struct Blob {
    p2p::Descriptor descriptor;
    p2p::Recipe recipe;   // of the plain bytes
    bool reused = false;  // the registry had it, by what a manifest says
  };

  p2p::ImageReference target;
  Digest manifest;
  std::optional<Digest> index;            // what the tag names, with Source::kPushToo
  std::optional<Digest> recipe_manifest;  // none if no blob has more than one chunk
  p2p::Descriptor bootstrap;
  Bootstrap plain_bootstrap;  // its file is gone
  std::vector<Blob> blobs;
  // What was left out of the image or changed, a line a kind; for people.
  std::vector<std::string> notices;
};

// Makes a lazy image of a directory or of another image, and pushes it: the data blobs, the bootstrap, the
// configuration, then the recipes as a referrer of the manifest, the manifest last, so that who finds the
// image finds all of it. Nothing is sent before all is made. Names follow the draft EROFS image
// specification: a layer for each data blob, in the order of the bootstrap's devices, and last the bootstrap.
//
// Blocks; one thread at a time. Its files lie in a ScratchDirectory.
class ImagePusher {
 public:
  // Both outlive the pusher.
  ImagePusher(p2p::RegistryClient& registry, ProgressSink& progress)
      : registry_(registry), progress_(progress) {}

  // Errors: InvalidArgument (the source is neither a directory nor a reference; its configuration or a layer
  // is none), FailedPrecondition (the source is a lazy image already), and those of RegistryClient, the
  // layers' readers and ImageBuilder. They name the image and the layer. Nothing is tagged after an error.
  absl::StatusOr<PushedImage> Push(const ImagePushRequest& request);

 private:
  // What the parts of a push hand on.
  struct Work;

  absl::Status ReadDirectory(Work& work);
  absl::Status ReadImage(Work& work);
  static void SetPlatform(Work& work, p2p::Platform platform);
  absl::Status ReadLayer(Work& work, size_t index, const std::string& path);
  absl::Status MakeLayer(Work& work, size_t index, int file);

  absl::Status FindReusable(Work& work);
  absl::Status MakeUpload(Work& work, std::optional<size_t> blob,
                          const std::optional<Digest>& source_diff_id);
  absl::StatusOr<bool> Reuse(Work& work, const p2p::Recipe& recipe, BlobUpload& upload);
  static void DescribeReused(BlobUpload& upload, const p2p::Descriptor& known);
  absl::Status CompressBlob(Work& work, const p2p::Recipe& recipe, BlobUpload& upload);
  absl::StatusOr<BlobUpload> MakeBootstrapUpload(Work& work, const Bootstrap& bootstrap);

  absl::StatusOr<PushedImage> Send(Work& work, const Bootstrap& bootstrap,
                                   const BlobUpload& bootstrap_upload);
  absl::StatusOr<Digest> Tag(Work& work, ImageUploader& uploader, const p2p::ImageManifest& manifest);

  p2p::RegistryClient& registry_;
  ProgressSink& progress_;
};

}  // namespace sluice
