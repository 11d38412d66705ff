#include "node/daemon/source_rates.h"

namespace sluice {

void SourceRates::Add(const Totals& totals, Instant now) {
  const double seconds = std::chrono::duration<double>(now - last_at_).count();
  if (has_last_ && seconds > 0) {
    Totals rates{};
    for (size_t i = 0; i < rates.size(); ++i) {
      const uint64_t grown = totals[i] >= last_[i] ? totals[i] - last_[i] : totals[i];
      rates[i] = static_cast<uint64_t>(static_cast<double>(grown) / seconds);
    }
    if (rates_.size() == kSamplesMax) rates_.pop_front();
    rates_.push_back(rates);
  }
  has_last_ = true;
  last_ = totals;
  last_at_ = now;
}

SourceRates::Series SourceRates::series() const {
  Series series;
  for (const Totals& rates : rates_) {
    for (size_t i = 0; i < rates.size(); ++i) series[i].push_back(rates[i]);
  }
  return series;
}

}  // namespace sluice
