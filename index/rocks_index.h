#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "index/index_db.h"

namespace sluice::index {

// Opens the RocksDB index in directory `path`, or makes one if the directory is missing or empty; sized for a
// small node. Errors: DataLoss (damaged: no reading or repairing is attempted), Unavailable (the disk).
absl::StatusOr<std::unique_ptr<IndexDb>> OpenRocksIndex(const std::string& path);

}  // namespace sluice::index
