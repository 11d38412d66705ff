#pragma once

#include <sys/types.h>

#include <string>

#include "index/store_file_system.h"

namespace sluice::bench {

// Lets the store believe that its chunks are on disk: its files are real and of their full size, and no byte
// is written to them. For what is measured of the index and of the node's memory.
class WeightlessFileSystem final : public index::StoreFileSystem {
 public:
  ssize_t Pwrite(int, const void*, size_t size, off_t) override { return static_cast<ssize_t>(size); }
  int Reserve(int, off_t, off_t) override { return 0; }
  int SyncData(int) override { return 0; }
};

}  // namespace sluice::bench
