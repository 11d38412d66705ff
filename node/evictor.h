#pragma once

#include <cstdint>
#include <vector>

#include "node/blob_key.h"

namespace sluice {

// How much the store may take up: its blobs, reservations and index, and the kernel's copies beside them.
struct StoreLimits {
  uint64_t capacity_bytes = 0;
  uint32_t high_percent = 90;  // of the capacity: above it blobs are evicted
  uint32_t low_percent = 80;   // until no more than this is taken up

  uint64_t high_bytes() const { return capacity_bytes / 100 * high_percent; }
  uint64_t low_bytes() const { return capacity_bytes / 100 * low_percent; }
};

// A blob that may be evicted: neither leased nor pinned.
struct EvictionCandidate {
  BlobKey key;
  uint64_t bytes = 0;        // that its eviction would give back
  int64_t last_used_ms = 0;  // last mounted, unmounted or served; wall clock, milliseconds since 1970
};

// The blobs to evict, the one used longest ago first, so that `bytes_to_free` are given back, or all if that
// is not enough. What would give back nothing stays. Pure.
std::vector<EvictionCandidate> ChooseEvictions(std::vector<EvictionCandidate> candidates,
                                               uint64_t bytes_to_free);

}  // namespace sluice
