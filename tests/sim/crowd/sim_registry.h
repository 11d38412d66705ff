#pragma once

#include <cstdint>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "node/chunk_source.h"
#include "tests/sim/crowd/weightless_store.h"
#include "tests/sim/crowd/wire.h"

namespace sluice::sim {

// The registry: one link, and what it was asked for.
struct SimRegistry {
  static constexpr Duration kTrip = std::chrono::milliseconds(20);

  explicit SimRegistry(double bytes_per_second) : up(bytes_per_second) {}

  Link up;
  uint64_t requests = 0;
  uint64_t bytes = 0;  // sent, also of what was cancelled
};

// A node's way to it, in place of p2p::OriginSource: one request for each fetch, its chunks in their order;
// what follows one that is under way comes by the same answer, as p2p::LongReads has it, up to the stripe's
// end. All that it gives is public.
class SimOrigin final : public ChunkSource {
 public:
  // All outlive it.
  SimOrigin(Wire& wire, SimRegistry& registry, Port& port, AccessLedger& ledger)
      : wire_(wire), registry_(registry), port_(port), ledger_(ledger) {}

  SourceKind kind() const override { return SourceKind::kOrigin; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  void Judge(SenderId, const Blob&, ChunkIndex, Verdict) override {}

 private:
  class Fetching;

  Wire& wire_;
  SimRegistry& registry_;
  Port& port_;
  AccessLedger& ledger_;
  // The last that was asked for of what ends there.
  absl::flat_hash_map<ChunkIndex, std::weak_ptr<Fetching>> by_end_;
};

}  // namespace sluice::sim
