#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "node/chunk_source.h"
#include "node/executor.h"

namespace sluice::p2p {

// Says when a fetch may begin. Pure: the clock is handed in. Not thread-safe.
class FetchGate {
 public:
  virtual ~FetchGate() = default;

  // Fetches of that class begin at once, and are not counted.
  virtual bool LetsThrough(FetchClass) const { return false; }
  virtual bool MayBegin(Instant now) = 0;
  virtual void Began(uint64_t bytes, Instant now) = 0;
  // One that began has ended; it took so long.
  virtual void Ended(uint64_t bytes, Duration took, Instant now) = 0;
  // One that began was cancelled, which says nothing of its source.
  virtual void Cancelled(uint64_t bytes, Instant now) = 0;
  // When MayBegin is worth asking again, though none ends before; Instant::max() for never.
  virtual Instant LookAgainAt(Instant now) = 0;
  // What one is told whose deadline came before its turn.
  virtual absl::Status TooLate() const = 0;
};

// A source behind a gate. Fetches wait for their turn, the more urgent first, among equals in the order of
// coming; never longer than until their deadline. Their number is bounded by who asks.
//
// Thread-safe. The parts outlive the source; a fetch under way outlives it safely.
class GatedSource final : public ChunkSource {
 public:
  struct Parts {
    const Clock& clock;
    Executor& io;  // its timers
    ChunkSource& source;
  };
  GatedSource(const Parts& parts, std::unique_ptr<FetchGate> gate);
  // Those that wait are Cancelled.
  ~GatedSource() override;

  SourceKind kind() const override;
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override;
  void KeptUnproven(SenderId sender, const Blob& blob, ChunkIndex index,
                    std::span<const std::byte> bytes) override;
  void NoteOutrun(bool stalled) override;

 private:
  class Waiting;
  struct Shared;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace sluice::p2p
