#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/blob_key.h"
#include "node/chunk_observer.h"
#include "node/chunk_set.h"
#include "node/daemon/hint_figures.h"

namespace sluice {

// Counts for each hint from where what it waits for comes, for whomever it was fetched.
//
// Thread-safe; its lock is held for a look at the hints of one blob, since the core loop takes it.
class HintArrivals final : public ChunkObserver {
 public:
  // These chunks of the blob are what the hint waits for.
  void Watch(const BlobKey& key, ChunkSet missing, std::shared_ptr<HintFigures> figures);
  // The hint with those figures is over. No-op if it waits for nothing of the blob.
  void Forget(const BlobKey& key, const HintFigures& figures);

  void Came(const Blob& blob, ChunkIndex index, std::optional<FetchClass> asked_as, SourceKind from) override;

 private:
  struct Waiting {
    ChunkSet missing;  // what has come twice came from the first
    std::shared_ptr<HintFigures> figures;
  };
  std::atomic<size_t> blobs_count_{0};  // of blobs_: nothing else is looked at while no hint waits
  std::mutex mutex_;                    // guards what follows
  absl::flat_hash_map<BlobKey, std::vector<Waiting>> blobs_;
};

}  // namespace sluice
