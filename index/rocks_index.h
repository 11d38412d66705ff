#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "index/index_db.h"

namespace rocksdb {
class Env;
}

namespace sluice::index {

// Opens the RocksDB index in directory `path`, or makes one if the directory is missing or empty; sized for a
// small node. All that can be read from it then is on disk, also what was written as kOrdered. Errors:
// DataLoss (damaged: no reading or repairing is attempted), Unavailable (the disk).
absl::StatusOr<std::unique_ptr<IndexDb>> OpenRocksIndex(const std::string& path);

// The same on an environment of the caller's, which outlives the index: by its files (that lie at `path` all
// the same) and by its clock. Nothing is done in the background before some megabytes were written, so that
// the same calls of the index are always the same calls of the environment, on the caller's thread.
absl::StatusOr<std::unique_ptr<IndexDb>> OpenRocksIndexOn(rocksdb::Env& env, const std::string& path);

}  // namespace sluice::index
