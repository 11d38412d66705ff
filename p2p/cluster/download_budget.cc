#include "p2p/cluster/download_budget.h"

#include <algorithm>

namespace sluice::p2p {
namespace {

double BytesIn(Duration time, double bytes_per_s) {
  return std::chrono::duration<double>(time).count() * bytes_per_s;
}

}  // namespace

DownloadBudget::DownloadBudget(const Clock& clock, uint64_t bytes_per_s)
    : clock_(clock),
      bytes_per_s_(static_cast<double>(bytes_per_s)),
      left_(BytesIn(kBurst, bytes_per_s_)),
      filled_at_(clock.Now()) {}

Duration DownloadBudget::Take(uint64_t bytes, FetchClass fetch_class) {
  if (bytes_per_s_ == 0) return {};
  const std::lock_guard lock(mutex_);
  const Instant now = clock_.Now();
  left_ = std::min(BytesIn(kBurst, bytes_per_s_), left_ + BytesIn(now - filled_at_, bytes_per_s_));
  filled_at_ = now;
  const double owed = -left_;
  left_ -= static_cast<double>(bytes);
  if (fetch_class == FetchClass::kDemand || owed <= 0) return {};
  return std::chrono::ceil<std::chrono::milliseconds>(std::chrono::duration<double>(owed / bytes_per_s_));
}

void DownloadBudget::GiveBack(uint64_t bytes) {
  if (bytes_per_s_ == 0) return;
  const std::lock_guard lock(mutex_);
  left_ = std::min(BytesIn(kBurst, bytes_per_s_), left_ + static_cast<double>(bytes));
}

}  // namespace sluice::p2p
