#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "node/digest.h"
#include "node/image/progress.h"
#include "p2p/recipe/recipe.h"

namespace sluice {

// Of the pieces in which mkfs.erofs looks for equal data; smaller ones find more and make a larger bootstrap.
inline constexpr uint32_t kDedupeChunkSize = 64 << 10;

// A file system image in two parts: the metadata, which must be there before a mount, and the bytes of its
// files.
struct ErofsImage {
  struct Blob {
    std::string path;
    p2p::Recipe recipe;  // with the blob's digest and size
  };

  std::string bootstrap_path;
  Digest bootstrap_digest;
  uint64_t bootstrap_size = 0;
  std::optional<Blob> blob;  // none if no file has a byte
};

// Makes an image of `directory` into files "bootstrap" and "blob" in `work_directory`. The same tree gives
// the same bytes, and every file keeps its times. `chunk_size` is the recipe's; unset, it follows from the
// blob's size. Errors: NotFound (mkfs.erofs is not installed), Internal (it failed, with what it said),
// InvalidArgument (a chunk size that the blob can't have), and those of reading and writing files.
absl::StatusOr<ErofsImage> BuildErofsImage(const std::string& directory, const std::string& work_directory,
                                           std::optional<uint32_t> chunk_size, ProgressSink& progress);

}  // namespace sluice
