#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "index/index_db.h"
#include "index/index_loader.h"
#include "node/digest.h"
#include "node/geometry.h"
#include "tests/sim/index_rows.h"
#include "tests/sim/lossy_disk.h"
#include "tests/sim/random.h"

namespace sluice::sim {

// What an index has on disk, with the batch rules of IndexDb: batches in order, each whole or not at all; a
// synced one covers those before it, the others may be lost at a power loss. One that failed may be there.
class LossyIndex {
 public:
  // REQUIRES: both outlive this
  LossyIndex(LossyDisk& disk, Random& random) : disk_(disk), random_(random) {}

  // Gives out an IndexDb over it. One at a time.
  index::OpenIndex Opener();
  void LosePower();

  // Whether the index claims the chunk for the file, now or after a power loss.
  bool MayClaim(const Digest& digest, ChunkIndex chunk, uint64_t inode) const;

 private:
  class Db;

  Rows Now() const;
  void Sync();

  LossyDisk& disk_;
  Random& random_;
  Rows durable_;
  std::vector<index::IndexBatch> unsynced_;
};

}  // namespace sluice::sim
