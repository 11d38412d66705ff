#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <vector>

#include "node/chunk_source.h"
#include "node/executor.h"

namespace sluice {

// How fast readers were served over the last minutes, by where the bytes came from.
//
// Not thread-safe.
class SourceRates {
 public:
  static constexpr Duration kInterval = std::chrono::seconds(2);
  static constexpr size_t kSamplesMax = 150;  // five minutes

  using Totals = std::array<uint64_t, kSourceKindCount>;
  // Bytes a second in each interval, the oldest first; index with static_cast<size_t>(SourceKind).
  using Series = std::array<std::vector<uint64_t>, kSourceKindCount>;

  // To be called every kInterval, with all that was served until now. A total that has become smaller counts
  // from zero: the keeper, which counts some of it, was replaced.
  void Add(const Totals& totals, Instant now);
  Series series() const;

 private:
  bool has_last_ = false;
  Totals last_{};
  Instant last_at_;
  std::deque<Totals> rates_;
};

}  // namespace sluice
