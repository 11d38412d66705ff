#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "node/blob_cache.h"
#include "node/blob_key.h"
#include "node/executor.h"

namespace sluice {

// What was served of each mounted blob through the daemon; the keeper counts the reads that it lets pass
// itself.
//
// Thread-safe; its lock is held for no longer than an addition, since the core loop takes it for every read.
class ServedCounts {
 public:
  struct Counts {
    api::ServedTotals totals;
    uint64_t errors = 0;
    std::string last_error;
    std::chrono::system_clock::time_point last_error_time;
  };

  void Note(const BlobKey& key, uint64_t length, const absl::StatusOr<ReadResult>& result);
  // How many errors have been noted since this last gave some; 0 for a second after it did: a reader that
  // goes on and on after errors is not to fill the log.
  uint64_t ErrorsToLog(const BlobKey& key, Instant now);
  // Zeros if nothing was noted.
  Counts Of(const BlobKey& key) const;
  void Forget(const BlobKey& key);

 private:
  struct Entry {
    Counts counts;
    uint64_t logged = 0;  // of counts.errors
    Instant log_after = Instant::min();
  };

  mutable std::mutex mutex_;
  absl::flat_hash_map<BlobKey, Entry> entries_;  // guarded by mutex_; one for each mounted blob that was read
};

}  // namespace sluice
