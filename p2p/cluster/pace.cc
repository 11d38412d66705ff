#include "p2p/cluster/pace.h"

#include <algorithm>

namespace sluice::p2p {

bool Pace::MayBegin(Instant) {
  return under_way_ < window_;
}

void Pace::Began(uint64_t bytes, Instant) {
  under_way_ += bytes;
}

void Pace::Ended(uint64_t bytes, Duration took, Instant now) {
  under_way_ -= std::min(under_way_, bytes);
  if (took < shortest_ || now >= shortest_until_) {
    shortest_ = took;
    shortest_until_ = now + kShortestKept;
  }
  if (took <= shortest_ + std::max<Duration>(shortest_ / 4, kSlack)) {
    window_ = std::min(kWindowMax, window_ + bytes);
    return;
  }
  const Duration too_long = std::clamp<Duration>(4 * shortest_, kLong, kLongMax);
  if (took <= too_long || now - shrunk_ < too_long) return;
  // As much as comes in that time, and at most half.
  const double part =
      std::min(0.5, static_cast<double>(too_long.count()) / static_cast<double>(took.count()));
  window_ = std::max(window_min_, static_cast<uint64_t>(static_cast<double>(window_) * part));
  shrunk_ = now;
}

absl::Status Pace::TooLate() const {
  return absl::DeadlineExceededError(
      "its source was busy with other fetches of this node until the deadline");
}

}  // namespace sluice::p2p
