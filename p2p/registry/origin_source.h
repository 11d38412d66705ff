#pragma once

#include "node/chunk_source.h"
#include "node/origin_access.h"
#include "p2p/registry/registry_client.h"

namespace sluice::p2p {

// Chunks from the registries that a blob is said to be in: one ranged GET per fetch. When it breaks midway
// the chunks that are left are asked for again; when a registry fails, the blob's next one is asked.
//
// Thread-safe. The registry client and the ledger outlive the source; a fetch under way outlives the source
// safely.
class OriginSource final : public ChunkSource {
 public:
  static constexpr uint32_t kResumesMax = 8;  // of one fetch, each after at least one more chunk arrived

  OriginSource(RegistryClient& registry, AccessLedger& ledger) : registry_(registry), ledger_(ledger) {}

  SourceKind kind() const override { return SourceKind::kOrigin; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  // The verify failures are counted and the chunk asked for once more; that a registry keeps sending wrong
  // bytes is seen by its readers' errors.
  void Judge(SenderId, const Blob&, ChunkIndex, Verdict) override {}

 private:
  RegistryClient& registry_;
  AccessLedger& ledger_;
};

}  // namespace sluice::p2p
