#include "api/http/send_order.h"

#include <algorithm>
#include <utility>

namespace sluice::api {
namespace {

double BytesIn(Duration time, uint64_t bytes_per_s) {
  return std::chrono::duration<double>(time).count() * static_cast<double>(bytes_per_s);
}

}  // namespace

SendOrder::Turn::Turn(SendOrder& order, SendUrgency urgency, Instant now)
    : order_(order), urgency_(urgency), began_(now), sent_at_(now) {
  if (!IsFill()) order_.demands_.insert(began_);
}

SendOrder::Turn::~Turn() {
  if (IsFill()) return;
  SetAwaitsRate(false);
  order_.demands_.erase(order_.demands_.find(began_));
  order_.on_room_();
}

void SendOrder::Turn::SetAwaitsRate(bool awaits) {
  if (awaits == awaits_rate_ || IsFill()) return;
  awaits_rate_ = awaits;
  order_.demands_awaiting_rate_ += awaits ? 1 : -1;
}

SendOrder::SendOrder(uint64_t bytes_per_s, Instant now, std::function<void()> on_room)
    : bytes_per_s_(bytes_per_s),
      on_room_(std::move(on_room)),
      saved_(BytesIn(kBurst, bytes_per_s)),
      saved_at_(now) {}

void SendOrder::Refill(Instant now) {
  const double most = std::max(BytesIn(kBurst, bytes_per_s_), static_cast<double>(kSliceBytesMin));
  saved_ = std::min(most, saved_ + BytesIn(now - saved_at_, bytes_per_s_));
  saved_at_ = now;
}

bool SendOrder::IsHeld(const Turn& turn, Instant now) const {
  const bool demand_is_sent = !demands_.empty() && *demands_.rbegin() + kDemandHoldsMax > now;
  return turn.IsFill() && demand_is_sent && turn.sent_at_ + kFillHeldMax > now;
}

uint64_t SendOrder::LeastBytes(uint64_t left) const {
  return std::min(left, kSliceBytesMin);
}

uint64_t SendOrder::MaySend(Turn& turn, uint64_t left, Instant now) {
  if (IsHeld(turn, now)) return 0;
  const uint64_t slice = std::min(left, turn.IsFill() ? kFillSliceBytes : kSliceBytes);
  if (bytes_per_s_ == 0) return slice;
  Refill(now);
  const bool enough = saved_ >= static_cast<double>(LeastBytes(left));
  turn.SetAwaitsRate(!enough);
  if (!enough || (turn.IsFill() && demands_awaiting_rate_ > 0)) return 0;
  return std::min(slice, static_cast<uint64_t>(saved_));
}

void SendOrder::Sent(Turn& turn, uint64_t bytes, Instant now) {
  turn.sent_at_ = now;
  if (bytes_per_s_ > 0) saved_ -= static_cast<double>(bytes);
}

Instant SendOrder::LookAgainAt(const Turn& turn, uint64_t left, Instant now) const {
  if (IsHeld(turn, now)) return std::min(*demands_.rbegin() + kDemandHoldsMax, turn.sent_at_ + kFillHeldMax);
  const double lacking = std::max(1.0, static_cast<double>(LeastBytes(left)) - saved_);
  const std::chrono::duration<double> until(lacking /
                                            static_cast<double>(std::max<uint64_t>(1, bytes_per_s_)));
  return now + std::max<Duration>(std::chrono::ceil<std::chrono::milliseconds>(until),
                                  std::chrono::milliseconds(1));
}

}  // namespace sluice::api
