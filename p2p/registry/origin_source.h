#pragma once

#include <cstddef>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "node/blob_key.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "p2p/registry/registry_client.h"

namespace sluice::p2p {

// Chunks from the registries that a blob is said to be in: one ranged GET per fetch. When it breaks midway
// the chunks that are left are asked for again; when a registry fails, or gives nothing in its share of the
// time, the blob's next one is asked. One that gave wrong bytes of a blob is asked last for it.
//
// Thread-safe. The registry client, the ledger and the clock outlive the source; a fetch under way outlives
// the source safely.
class OriginSource final : public ChunkSource {
 public:
  static constexpr uint32_t kResumesMax = 8;  // of one fetch, each after at least one more chunk arrived

  static constexpr size_t kLiarsMax = 1024;  // remembered; the oldest is forgotten first

  OriginSource(RegistryClient& registry, AccessLedger& ledger, const Clock& clock)
      : registry_(registry), ledger_(ledger), clock_(clock) {}

  SourceKind kind() const override { return SourceKind::kOrigin; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  // The verify failures are counted and the chunk asked for once more; that all registries keep sending wrong
  // bytes is seen by their readers' errors.
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override;

 private:
  using Liar = std::pair<BlobKey, SenderId>;

  std::vector<BlobOrigin> OriginsOf(const Blob& blob) const;

  RegistryClient& registry_;
  AccessLedger& ledger_;
  const Clock& clock_;

  mutable std::mutex mutex_;
  std::deque<Liar> liars_;  // guarded by mutex_; no two alike
};

}  // namespace sluice::p2p
