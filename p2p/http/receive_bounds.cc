#include "p2p/http/receive_bounds.h"

#include <algorithm>
#include <cstdint>

namespace sluice::p2p {

void ReceiveBounds::Note(const std::string& host, Duration handshake, Instant now) {
  if (hosts_.size() >= kHostsMax && !hosts_.contains(host)) hosts_.erase(hosts_.begin());
  const auto [found, is_new] = hosts_.try_emplace(host, Shortest{handshake, now + kKept});
  if (!is_new && (handshake <= found->second.handshake || found->second.until <= now))
    found->second = {handshake, now + kKept};
}

std::optional<int> ReceiveBounds::Of(const std::string& host) const {
  const auto found = hosts_.find(host);
  // Of a host that is not known yet little is risked either way.
  if (found == hosts_.end()) return kBytesMax;
  if (found->second.handshake > kRoundTripMax) return std::nullopt;
  const auto microseconds =
      std::chrono::duration_cast<std::chrono::microseconds>(found->second.handshake).count();
  return static_cast<int>(std::clamp<int64_t>(microseconds * kBytesPerMicrosecond, kBytesMin, kBytesMax));
}

}  // namespace sluice::p2p
