#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/telemetry.h"

namespace sluice::p2p {

// The origin for who is none of those that may ask it: within a budget of bytes a second and of requests
// under way, so that a cluster that has fallen apart does not melt its registry. A fetch beyond it waits for
// its turn, in the order of coming, demand first; at its deadline it fails with a line that says so. Source:
// PEERS.md, "Last resort".
//
// Thread-safe. The parts outlive the source; a fetch under way outlives it safely.
class LastResortSource final : public ChunkSource {
 public:
  static constexpr uint32_t kUnderWayMax = 16;
  // Among all nodes together; divided by their number where that is more than the rate of one.
  static constexpr uint64_t kClusterBytesPerSecond = 512 << 20;

  struct Parts {
    const Clock& clock;
    Executor& io;  // its timers
    ChunkSource& origin;
    Telemetry& telemetry;
    std::function<size_t()> table_size;  // members, this node among them
  };
  // `bytes_per_second` > 0.
  LastResortSource(const Parts& parts, uint64_t bytes_per_second);
  // Those that wait are Cancelled.
  ~LastResortSource() override;

  SourceKind kind() const override { return SourceKind::kOrigin; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override;

 private:
  class Waiting;
  struct Shared;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace sluice::p2p
