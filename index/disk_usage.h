#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "index/blob_entry.h"
#include "node/executor.h"
#include "node/telemetry.h"

namespace sluice::index {

// What the store takes up on its disk, as the file system counts it (st_blocks): measured, not the disk's
// free space, which others change too. Kept up to date as files are reserved, synced and removed, never
// summed up anew over all blobs.
//
// Thread-safe.
class DiskUsage {
 public:
  // How old the figure of what is not a blob's file may be while batches run.
  static constexpr Duration kRestAgeMax = std::chrono::seconds(5);

  // REQUIRES: `telemetry` outlives this. The gauge of the cache's size is this object's.
  DiskUsage(std::string data_dir, Telemetry& telemetry)
      : data_dir_(std::move(data_dir)), telemetry_(telemetry) {}

  // The file system counts so much as allocated to the entry's file; what was reserved before is in it.
  // REQUIRES: entry.mutex is held
  void Measured(BlobEntry& entry, uint64_t allocated_bytes);
  // So much more was reserved in it since. REQUIRES: as above
  void Reserved(BlobEntry& entry, uint64_t bytes);

  // Measures what is beside the blobs' files: index, recipes, reserve, an index that was set aside. Blocks on
  // disk. No-op if that was done less than kRestAgeMax ago.
  void MeasureRest();

  uint64_t blob_bytes() const { return static_cast<uint64_t>(blob_bytes_.load()); }
  uint64_t rest_bytes() const { return rest_bytes_; }

 private:
  void Add(BlobEntry& entry, int64_t bytes);

  const std::string data_dir_;
  Telemetry& telemetry_;
  std::atomic<int64_t> blob_bytes_{0};
  std::atomic<uint64_t> rest_bytes_{0};
  std::atomic<int64_t> rest_measured_ns_{0};  // on the steady clock; 0: never
};

}  // namespace sluice::index
