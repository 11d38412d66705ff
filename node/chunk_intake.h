#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/chunk_store.h"
#include "node/chunk_verifier.h"
#include "node/telemetry.h"

namespace sluice {

// The one way by which a chunk gets into the store: held against its recipe, then committed.
//
// Thread-safe; hashes and writes on the calling thread, so call it on the I/O pool.
class ChunkIntake {
 public:
  ChunkIntake(ChunkVerifier& verifier, ChunkStore& store, Telemetry& telemetry)
      : verifier_(verifier), store_(store), telemetry_(telemetry) {}

  // What the chunk's bytes are now known to be; `evidence` if it is better than none. Errors: DataLoss (not
  // what the recipe promises), Unavailable (the recipe can't be read just now).
  absl::StatusOr<Evidence> Verify(const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                                  Evidence evidence, SourceKind kind) const {
    if (evidence == Evidence::kVerified) return evidence;
    absl::StatusOr<Evidence> verdict = verifier_.Verify(blob, index, bytes);
    if (absl::IsDataLoss(verdict.status())) telemetry_.verify_failures[static_cast<int>(kind)].Add();
    return verdict;
  }

  // As ChunkStore says.
  absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                      Evidence evidence) const {
    return store_.Commit(blob, index, bytes, evidence);
  }

 private:
  ChunkVerifier& verifier_;
  ChunkStore& store_;
  Telemetry& telemetry_;
};

}  // namespace sluice
