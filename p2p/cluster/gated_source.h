#pragma once

#include <memory>
#include <span>
#include <utility>

#include "node/chunk_source.h"
#include "p2p/cluster/gate_queue.h"

namespace sluice::p2p {

// A source behind a gate. Fetches wait for their turn as GateQueue says.
//
// Thread-safe. The source outlives this; a fetch under way outlives it safely.
class GatedSource final : public ChunkSource {
 public:
  // Others may wait at the same gate.
  GatedSource(ChunkSource& source, std::shared_ptr<GateQueue> queue)
      : source_(source), queue_(std::move(queue)) {}
  // One that is this source's alone.
  GatedSource(ChunkSource& source, const GateQueue::Parts& parts, std::unique_ptr<FetchGate> gate)
      : GatedSource(source, std::make_shared<GateQueue>(parts, std::move(gate))) {}
  // All that waits at the gate is Cancelled.
  ~GatedSource() override;

  SourceKind kind() const override { return source_.kind(); }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override;
  void KeptUnproven(SenderId sender, const Blob& blob, ChunkIndex index,
                    std::span<const std::byte> bytes) override;
  void NoteOutrun(bool stalled) override;

 private:
  class Waiting;
  ChunkSource& source_;
  const std::shared_ptr<GateQueue> queue_;
};

}  // namespace sluice::p2p
