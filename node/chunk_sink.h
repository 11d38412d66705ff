#pragma once

#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/chunk_store.h"

namespace sluice {

// Takes chunks that nobody asked for. Implemented by the cache.
//
// Thread-safe.
class ChunkSink {
 public:
  using OnDone = absl::AnyInvocable<void(absl::Status) &&>;

  virtual ~ChunkSink() = default;

  // Commits the chunk; who waits for it is answered. kVerified: the caller has held these very bytes against
  // the bound recipe's leaf, or the whole blob against its digest; else they are verified here. `on_done`
  // comes once, on the core loop, when the chunk is present (also if it was before) or refused, and pushes
  // back: who offers waits for it before it offers much more. Errors: ResourceExhausted (too many bytes
  // offered and not done yet, or no space), DataLoss (not what the recipe promises; or the blob is refused),
  // Unavailable (another failure to write, or the blob was evicted meanwhile), InvalidArgument (length).
  virtual void Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence,
                     SourceKind kind, OnDone on_done) = 0;
};

}  // namespace sluice
