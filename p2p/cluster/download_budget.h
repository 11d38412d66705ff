#pragma once

#include <cstdint>
#include <mutex>

#include "node/chunk_source.h"
#include "node/executor.h"

namespace sluice::p2p {

// How many bytes a second members are asked for. What readers wait for is asked for at once, and fills pay
// for it: they wait until all that was taken before them is paid for.
//
// Thread-safe.
class DownloadBudget {
 public:
  // What an idle time saves.
  static constexpr Duration kBurst = std::chrono::milliseconds(250);

  // `bytes_per_s`: 0 is no bound. The clock outlives the budget.
  DownloadBudget(const Clock& clock, uint64_t bytes_per_s);

  // Takes that many bytes; they may be asked for after the time that is returned, a demand's at once.
  Duration Take(uint64_t bytes, FetchClass fetch_class);
  // So many of those that were taken have not come.
  void GiveBack(uint64_t bytes);

 private:
  const Clock& clock_;
  const double bytes_per_s_;
  std::mutex mutex_;
  // Guarded by mutex_.
  double left_;  // below zero: so many are still to be paid for
  Instant filled_at_;
};

}  // namespace sluice::p2p
