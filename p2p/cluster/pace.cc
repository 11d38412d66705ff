#include "p2p/cluster/pace.h"

#include <algorithm>

namespace sluice::p2p {
namespace {

// By simulation, for a registry of 1 Gbit/s. No reader waits for it.
constexpr Duration kFirstWaitOfEach = std::chrono::microseconds(240);
constexpr Duration kFirstWaitMax = std::chrono::milliseconds(500);

}  // namespace

Duration FirstWait(size_t members, double fraction) {
  const Duration of_all = static_cast<int64_t>(members) * kFirstWaitOfEach;
  return std::chrono::duration_cast<Duration>(fraction * std::min<Duration>(of_all, kFirstWaitMax));
}

bool Pace::MayBegin(bool begins_fill, Instant now) {
  if (first_wait_ && begins_fill && under_way_ == 0 && std::max(opens_, left_) + kPauseMin <= now)
    opens_ = now + first_wait_();
  return (opens_ <= now || !begins_fill) && under_way_ < window_;
}

void Pace::Leave(uint64_t bytes, Instant now) {
  under_way_ -= std::min(under_way_, bytes);
  if (under_way_ == 0) left_ = now;
}

void Pace::Began(uint64_t bytes, Instant) {
  under_way_ += bytes;
}

void Pace::Ended(uint64_t bytes, Duration took, Instant now) {
  Leave(bytes, now);
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
