#pragma once

#include <rocksdb/env.h>

#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "index/index_db.h"
#include "node/digest.h"
#include "node/geometry.h"
#include "tests/sim/executors.h"
#include "tests/sim/index_rows.h"
#include "tests/sim/lossy_disk.h"
#include "tests/sim/lossy_file_system.h"
#include "tests/sim/random.h"

namespace sluice::sim {

// The index in RocksDB, on the simulated disk and by the virtual clock. Whenever it is opened, its rows are
// held against what IndexDb promises of the batches that were written: none lost that was synced, or that
// came before a synced one; none half there; none out of order. It may be given up whole, as damaged, only
// where a power loss tore a batch that was not synced.
class LossyRocksIndex {
 public:
  // REQUIRES: all outlive this
  LossyRocksIndex(LossyDisk& disk, Random& random, const VirtualClock& clock);
  ~LossyRocksIndex();

  // One at a time. Errors: Internal (a promise is broken), those of OpenRocksIndex.
  absl::StatusOr<std::unique_ptr<index::IndexDb>> Open(const std::string& path);
  void LosePower();

  // Whether the index claims the chunk for the file, now or after a power loss.
  bool MayClaim(const Digest& digest, ChunkIndex chunk, uint64_t inode) const;

 private:
  class Db;
  class SimulatedEnv;
  using States = std::set<Rows>;

  absl::Status CheckOpened(const absl::StatusOr<std::unique_ptr<index::IndexDb>>& db);
  // `reached`: something of the batch may have come to the disk.
  void Wrote(const index::IndexBatch& batch, index::Durability durability, bool ok, bool reached);
  void Look(index::IndexDb& db);

  LossyDisk& disk_;
  const std::shared_ptr<LossyFileSystem> files_;
  const std::unique_ptr<SimulatedEnv> env_;
  // What it may hold: more than one thing, for a batch that failed may be there.
  States now_{Rows{}};
  States kept_{Rows{}};  // after a power loss
  bool broken_ = false;  // a promise was, and it could not be said then
};

}  // namespace sluice::sim
