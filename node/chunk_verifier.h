#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_store.h"

namespace sluice {

// Holds chunks against their recipes, and whole blobs against their digests. Implemented by p2p/ (BEP 52).
//
// Thread-safe; hashes on the calling thread, so call it on the I/O pool.
class ChunkVerifier {
 public:
  virtual ~ChunkVerifier() = default;

  // kVerified if the bytes are the chunk that the blob's bound recipe promises; kUnverified if there is no
  // bound recipe. Errors: DataLoss if the bytes are not what the recipe promises; Unavailable if the recipe
  // can't be read just now.
  virtual absl::StatusOr<Evidence> Verify(const Blob& blob, ChunkIndex index,
                                          std::span<const std::byte> bytes) = 0;
};

}  // namespace sluice
