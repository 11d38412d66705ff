#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "node/blob_cache.h"
#include "node/digest.h"

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
  };

  void Note(const Digest& digest, uint64_t length, const absl::StatusOr<ReadResult>& result);
  // Zeros if nothing was noted.
  Counts Of(const Digest& digest) const;
  void Forget(const Digest& digest);

 private:
  mutable std::mutex mutex_;
  absl::flat_hash_map<Digest, Counts> counts_;  // guarded by mutex_; one for each mounted blob that was read
};

}  // namespace sluice
