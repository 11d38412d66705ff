#include "tests/sim/lossy_index.h"

#include <utility>

namespace sluice::sim {

using index::Durability;
using index::IndexBatch;
using index::IndexDb;

class LossyIndex::Db final : public IndexDb {
 public:
  explicit Db(LossyIndex& index) : index_(index) {}

  absl::Status Scan(const Visitor& visit) override {
    for (const auto& [key, value] : index_.Now()) {
      if (absl::Status visited = visit(key, value); !visited.ok()) return visited;
    }
    return absl::OkStatus();
  }

  absl::Status Write(const IndexBatch& batch, Durability durability) override {
    LossyDisk& disk = index_.disk_;
    if (disk.dead()) return absl::UnavailableError("index: the node is dead");
    const bool fails = !disk.Alive() || disk.Fires(disk.faults.index);
    const bool written = !fails || index_.random_.Chance(50);
    if (written) index_.unsynced_.push_back(batch);
    if (durability == Durability::kSynced && (!fails || (written && index_.random_.Chance(50))))
      index_.Sync();
    return fails ? absl::UnavailableError("index: the disk failed") : absl::OkStatus();
  }

  void Reopen() override {}

 private:
  LossyIndex& index_;
};

index::OpenIndex LossyIndex::Opener() {
  return [this](const std::string&) -> absl::StatusOr<std::unique_ptr<IndexDb>> {
    Sync();  // as RocksDB, which writes what it replays to a table
    return std::make_unique<Db>(*this);
  };
}

Rows LossyIndex::Now() const {
  Rows rows = durable_;
  for (const IndexBatch& batch : unsynced_) Apply(batch, &rows);
  return rows;
}

void LossyIndex::Sync() {
  for (const IndexBatch& batch : std::exchange(unsynced_, {})) Apply(batch, &durable_);
}

void LossyIndex::LosePower() {
  unsynced_.resize(random_.Below(unsynced_.size() + 1));
  Sync();
}

bool LossyIndex::MayClaim(const Digest& digest, ChunkIndex chunk, uint64_t inode) const {
  Rows rows = durable_;
  if (Claims(rows, digest, chunk, inode)) return true;
  for (const IndexBatch& batch : unsynced_) {
    Apply(batch, &rows);
    if (Claims(rows, digest, chunk, inode)) return true;
  }
  return false;
}

}  // namespace sluice::sim
