#pragma once

#include <cstdint>
#include <functional>

#include "node/telemetry.h"
#include "p2p/cluster/gate_queue.h"

namespace sluice::p2p {

// Lets who is none of those that may ask the origin ask it all the same, within a budget of bytes a second
// and of requests under way: so that a cluster that has fallen apart does not melt its registry. Source:
// PEERS.md, "Last resort".
class LastResortGate final : public FetchGate {
 public:
  static constexpr uint32_t kUnderWayMax = 16;
  // Among all nodes together; divided by their number where that is more than the rate of one.
  static constexpr uint64_t kClusterBytesPerSecond = 512 << 20;

  // REQUIRES: bytes_per_second > 0. `table_size`: the members, this node among them. The telemetry outlives
  // the gate.
  LastResortGate(uint64_t bytes_per_second, std::function<size_t()> table_size, Telemetry& telemetry);

  bool MayBegin(bool, Instant now) override;
  void Began(uint64_t bytes, Instant now) override;
  void Ended(uint64_t bytes, Duration took, Instant now) override;
  void Cancelled(uint64_t, Instant) override { --under_way_; }
  Instant LookAgainAt(Instant now) override;
  absl::Status TooLate() const override;

 private:
  double Rate() const;
  void Refill(Instant now);

  const uint64_t bytes_per_second_;
  const std::function<size_t()> table_size_;
  Telemetry& telemetry_;
  uint32_t under_way_ = 0;
  double budget_;  // bytes; below zero once: a fetch may be longer than what is left
  Instant filled_at_{};
};

}  // namespace sluice::p2p
