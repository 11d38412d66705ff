#pragma once

#include <span>
#include <utility>

#include "node/chunk_source.h"
#include "p2p/cluster/chunk_blame.h"

namespace sluice::p2p {

// The registry as who says which of the members is to blame: a source that tells a ChunkBlame what became of
// what it gave.
//
// Thread-safe. Both outlive the source.
class WitnessSource final : public ChunkSource {
 public:
  WitnessSource(ChunkSource& registry, ChunkBlame& blame) : registry_(registry), blame_(blame) {}

  SourceKind kind() const override { return registry_.kind(); }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override {
    return registry_.Fetch(std::move(request), std::move(on_chunk), std::move(on_done));
  }
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override {
    registry_.Judge(sender, blob, index, verdict);
    if (verdict == Verdict::kRight) {
      blame_.Right(blob, index);
    } else {
      blame_.RegistryWrong(blob, index);
    }
  }
  void KeptUnproven(SenderId, const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes) override {
    blame_.RegistryGave(blob, index, bytes);
  }

 private:
  ChunkSource& registry_;
  ChunkBlame& blame_;
};

}  // namespace sluice::p2p
