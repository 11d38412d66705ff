#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "node/executor.h"

namespace sluice::p2p {

// How much a connection for fills may have on its way to this node: what is on its way comes before whatever
// a reader asks for. Enough to keep a fast link busy over the round trip to the host, which the handshakes
// tell. Beyond a few milliseconds there is no bound: the kernel would give no buffer that is large enough,
// and a reader waits for round trips there, far longer than for what is on its way.
//
// Pure: the clock is handed in. Not thread-safe.
class ReceiveBounds {
 public:
  static constexpr int kBytesMin = 32 << 10;
  static constexpr int kBytesMax = 208 << 10;  // Linux: net.core.rmem_max unless it was raised
  static constexpr int kBytesPerMicrosecond = 125;
  static constexpr Duration kRoundTripMax = std::chrono::milliseconds(10);
  // The shortest handshake of so long a time counts: others waited for what came over the same link.
  static constexpr Duration kKept = std::chrono::minutes(10);
  static constexpr size_t kHostsMax = 4096;  // remembered

  // A connection to the host took so long to be made.
  void Note(const std::string& host, Duration handshake, Instant now);
  // For the next connection to the host; none if it is not to be bounded.
  std::optional<int> Of(const std::string& host) const;

 private:
  struct Shortest {
    Duration handshake{};
    Instant until{};
  };
  absl::flat_hash_map<std::string, Shortest> hosts_;
};

}  // namespace sluice::p2p
