#pragma once

#include <cstdint>

namespace sluice::api {

// What this process takes up now; 0 where the kernel does not tell.
struct ProcessCounts {
  double cpu_seconds = 0;  // since it started, of all threads
  uint64_t resident_bytes = 0;
  uint64_t open_descriptors = 0;
  uint64_t descriptors_max = 0;  // RLIMIT_NOFILE
  uint64_t threads = 0;
};

// Thread-safe; reads /proc/self, no disk.
ProcessCounts CountProcess();

}  // namespace sluice::api
