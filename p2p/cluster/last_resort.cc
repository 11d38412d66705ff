#include "p2p/cluster/last_resort.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {

LastResortGate::LastResortGate(uint64_t bytes_per_second, std::function<size_t()> table_size,
                               Telemetry& telemetry)
    : bytes_per_second_(bytes_per_second),
      table_size_(std::move(table_size)),
      telemetry_(telemetry),
      budget_(Rate()) {}

double LastResortGate::Rate() const {
  const size_t members = std::max<size_t>(1, table_size_());
  return static_cast<double>(std::max<uint64_t>(bytes_per_second_, kClusterBytesPerSecond / members));
}

void LastResortGate::Refill(Instant now) {
  const double rate = Rate();
  budget_ = std::min(rate, budget_ + rate * std::chrono::duration<double>(now - filled_at_).count());
  filled_at_ = now;
}

bool LastResortGate::MayBegin(bool, Instant now) {
  Refill(now);
  return under_way_ < kUnderWayMax && budget_ > 0;
}

void LastResortGate::Began(uint64_t bytes, Instant) {
  budget_ -= static_cast<double>(bytes);
  telemetry_.last_resort_bytes.Add(bytes);
  ++under_way_;
}

void LastResortGate::Ended(uint64_t, Duration, Instant) {
  --under_way_;
}

Instant LastResortGate::LookAgainAt(Instant now) {
  if (under_way_ >= kUnderWayMax) return Instant::max();
  const std::chrono::duration<double> refilled(std::max(0.0, 1 - budget_) / Rate());
  return now + std::chrono::ceil<std::chrono::milliseconds>(refilled) + std::chrono::milliseconds(1);
}

absl::Status LastResortGate::TooLate() const {
  return absl::DeadlineExceededError(
      absl::StrCat("no member could be asked, and the budget for asking the registry beside them "
                   "(peers.lastResortRate, ",
                   bytes_per_second_, " bytes/s) was used up"));
}

}  // namespace sluice::p2p
