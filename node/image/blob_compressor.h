#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/digest.h"
#include "node/image/data_blob_writer.h"

namespace sluice {

// How blobs are made smaller for the wire.
struct Compression {
  static constexpr int kLevelDefault = 3;
  enum class Kind { kNone, kZstd };

  Kind kind = Kind::kZstd;
  int level = kLevelDefault;  // of kZstd

  // Parses "none", "zstd" and "zstd:LEVEL". Errors: InvalidArgument, which says what there is.
  static absl::StatusOr<Compression> Parse(const std::string& text);
  // "zstd:3 1.5.4": what decides the compressed bytes, beside the plain ones.
  std::string Describe() const;
};

// Frames that stand for the bytes of a file, one after another in a file of their own.
struct CompressedFile {
  std::string path;
  uint64_t size = 0;
  Digest digest;
  std::vector<uint32_t> frame_sizes;
};

// Compresses a file into a new one, each `frame_bytes` of it as a zstd frame that knows its own plain size.
// Runs `threads` at once; the same bytes come out whatever their number is. `trailer` is told the size of
// each frame and gives what stands behind them; "" for nothing. `on_progress` is told how many plain bytes
// are done, on the calling thread. Errors: those of the files. REQUIRES: plain_size > 0, frame_bytes > 0,
// threads > 0
struct CompressRequest {
  std::string plain_path;
  uint64_t plain_size = 0;
  std::string path;
  uint32_t frame_bytes = 0;
  int level = Compression::kLevelDefault;
  unsigned threads = 1;
};
absl::StatusOr<CompressedFile> CompressFile(
    const CompressRequest& request, absl::FunctionRef<std::string(const std::vector<uint32_t>&)> trailer,
    absl::FunctionRef<void(uint64_t plain_bytes)> on_progress);

}  // namespace sluice
