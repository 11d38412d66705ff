#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/digest.h"
#include "node/image/content_table.h"
#include "node/image/layer_reader.h"
#include "node/image/unique_fd.h"
#include "p2p/recipe/recipe.h"

namespace sluice {

// A data blob in a file.
struct DataBlob {
  std::string path;
  p2p::Recipe recipe;  // with the blob's digest, size and chunk size
};

// The size that a data blob of so many bytes gets by padding, and its chunk size: whole chunks, a small blob
// one chunk of a power of two. `chunk_size` unset: by the size. A blob that is smaller than `chunk_size` gets
// a smaller one. REQUIRES: bytes > 0
struct PaddedSize {
  uint64_t size = 0;
  uint32_t chunk_size = 0;
};
PaddedSize PadDataBlob(uint64_t bytes, std::optional<uint32_t> chunk_size);

// Writes the data blob of one layer: a function of the contents of its regular files, in their order, and of
// nothing else (layout 1). Contents are cut at each 64 KiB of the file. A piece of zeros is a hole; a piece
// that equals an earlier one, both padded with zeros to 4 KiB, is stored once; each begins on 4 KiB.
//
// One thread at a time. The file is not synced.
class DataBlobWriter {
 public:
  static constexpr uint32_t kLayout = 1;

  // Makes a new file. Errors: those of making it. `contents` outlives the writer.
  static absl::StatusOr<DataBlobWriter> Open(const std::string& path, uint32_t layer, ContentTable& contents);

  // Stores the contents of the file that the reader stands at, all `size` bytes of it. Errors: the reader's,
  // and those of writing, which name the file.
  absl::StatusOr<ContentId> Add(LayerReader& reader, uint64_t size);

  // Pads the blob and hashes it; none if no file had a byte that is not zero. The writer is of no use
  // afterwards. Errors: InvalidArgument (a chunk size that the blob can't have), and those of the file.
  absl::StatusOr<std::optional<DataBlob>> Finish(std::optional<uint32_t> chunk_size);

  // Bytes of the blob so far.
  uint64_t size() const { return uint64_t{blocks_} * kBlockBytes; }

 private:
  DataBlobWriter(std::string path, UniqueFd file, uint32_t layer, ContentTable& contents);

  absl::Status Append(const ContentRun& run, uint64_t size);
  absl::Status EndPiece(uint64_t size);
  absl::StatusOr<uint32_t> Store(std::span<const std::byte> piece);
  absl::Status Flush();
  void Note(uint32_t block, uint64_t pieces);

  const std::string path_;
  UniqueFd file_;
  const uint32_t layer_;
  ContentTable& contents_;

  absl::flat_hash_map<Digest, uint32_t> known_;  // pieces by what they hold -> their first block
  std::vector<std::byte> unwritten_;             // the end of the blob
  uint32_t blocks_ = 0;                          // of the blob, those unwritten too

  // Of the file under way.
  std::vector<Extent> extents_;
  std::vector<std::byte> piece_;  // always kPieceBytes; zeros from piece_bytes_ on
  uint64_t piece_index_ = 0;
  bool piece_has_bytes_ = false;
};

}  // namespace sluice
