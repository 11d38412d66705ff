#pragma once

#include <cstdint>

#include "index/blob_entry.h"
#include "node/telemetry.h"

namespace sluice::index {

// What the file system has allocated to the blobs' files, as it counted last; what is reserved in them
// counts. Cheap: it is kept up to date, never summed up anew.
//
// Thread-safe.
class DiskUsage {
 public:
  explicit DiskUsage(Telemetry& telemetry) : telemetry_(telemetry) {}

  // REQUIRES: entry.mutex is held
  void Set(BlobEntry& entry, uint64_t allocated_bytes) {
    telemetry_.cache_size_bytes.Add(static_cast<int64_t>(allocated_bytes) -
                                    static_cast<int64_t>(entry.disk_bytes));
    entry.disk_bytes = allocated_bytes;
    entry.room.Measured(allocated_bytes);
  }

 private:
  Telemetry& telemetry_;
};

}  // namespace sluice::index
