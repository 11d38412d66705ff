#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/digest.h"
#include "node/image/content_table.h"
#include "node/image/data_blob_writer.h"
#include "node/image/image_tree.h"
#include "node/image/layer_reader.h"
#include "node/image/notices.h"

namespace sluice {

// An image's metadata, in a file: what is mounted, with the data blobs as its devices.
struct Bootstrap {
  std::string path;
  uint64_t size = 0;
  Digest digest;
};

// Makes of layers, lowest first, what an image is mounted from: of each its data blob, and last the bootstrap
// of the whole tree. All bytes are a function of what the layers hold, and of the chunk size if one is given.
//
// One thread at a time. Its files lie in a directory that outlives it, "data-N" and "bootstrap"; nothing is
// synced.
class ImageBuilder {
 public:
  // `chunk_size`: of the data blobs; unset: by their sizes.
  ImageBuilder(std::string directory, std::optional<uint32_t> chunk_size)
      : directory_(std::move(directory)), chunk_size_(chunk_size) {}
  ImageBuilder(const ImageBuilder&) = delete;
  ImageBuilder& operator=(const ImageBuilder&) = delete;

  // The place of its data blob in blobs(); none if no file of the layer has a byte that is not zero. Two
  // layers may have the same. Errors: the reader's; those of ImageTree and DataBlobWriter; InvalidArgument
  // (more than 500 data blobs). The builder is of no use after an error.
  absl::StatusOr<std::optional<size_t>> AddLayer(
      LayerReader& reader, ImageTree::Whiteouts whiteouts = ImageTree::Whiteouts::kApply);

  // To be called once, after the last layer. Errors: those of WriteErofsImage.
  absl::StatusOr<Bootstrap> Finish();

  // Each once, in the order of the bootstrap's devices.
  const std::vector<DataBlob>& blobs() const { return blobs_; }
  // What the layers since the last call lost.
  Notices TakeNotices() { return tree_.TakeNotices(); }

 private:
  absl::Status ReadEntries(LayerReader& reader, DataBlobWriter& writer);
  size_t Keep(DataBlob blob);

  const std::string directory_;
  const std::optional<uint32_t> chunk_size_;
  ImageTree tree_;
  ContentTable contents_;
  std::vector<DataBlob> blobs_;
  std::vector<uint32_t> device_of_layer_;  // ErofsSource::device_of_layer
};

}  // namespace sluice
