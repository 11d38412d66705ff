#include "tests/sim/lossy_rocks_index.h"

#include <chrono>
#include <utility>

#include "index/rocks_index.h"

namespace sluice::sim {
namespace {

using index::Durability;
using index::IndexBatch;
using index::IndexDb;

absl::StatusOr<Rows> RowsOf(IndexDb& db) {
  Rows rows;
  const absl::Status scanned = db.Scan([&](std::string_view key, std::string_view value) {
    rows.emplace(key, value);
    return absl::OkStatus();
  });
  if (!scanned.ok()) return scanned;
  return rows;
}

}  // namespace

class LossyRocksIndex::SimulatedEnv final : public rocksdb::EnvWrapper {
 public:
  SimulatedEnv(const std::shared_ptr<LossyFileSystem>& files, const VirtualClock& clock)
      : EnvWrapper(rocksdb::NewCompositeEnv(files)), clock_(clock) {}

  uint64_t NowNanos() override {
    return static_cast<uint64_t>(std::chrono::nanoseconds(clock_.Now().time_since_epoch()).count());
  }

 private:
  const VirtualClock& clock_;
};

class LossyRocksIndex::Db final : public IndexDb {
 public:
  Db(LossyRocksIndex& index, std::unique_ptr<IndexDb> inner) : index_(index), inner_(std::move(inner)) {}

  absl::Status Scan(const Visitor& visit) override {
    const absl::Status scanned = inner_->Scan(visit);
    return index_.disk_.dead() ? absl::UnavailableError("index: the node is dead") : scanned;
  }

  absl::Status Write(const IndexBatch& batch, Durability durability) override {
    if (index_.disk_.dead()) return absl::UnavailableError("index: the node is dead");
    const uint64_t appends = index_.files_->appends();
    const absl::Status written = inner_->Write(batch, durability);
    index_.Wrote(batch, durability, written.ok(), index_.files_->appends() > appends);
    if (written.ok() && index_.now_.size() > 1) index_.Look(*inner_);
    return written;
  }

  void Reopen() override {
    if (!index_.disk_.dead()) inner_->Reopen();
  }

 private:
  LossyRocksIndex& index_;
  const std::unique_ptr<IndexDb> inner_;
};

LossyRocksIndex::LossyRocksIndex(LossyDisk& disk, Random& random, const VirtualClock& clock)
    : disk_(disk),
      files_(std::make_shared<LossyFileSystem>(disk, random)),
      env_(std::make_unique<SimulatedEnv>(files_, clock)) {}

LossyRocksIndex::~LossyRocksIndex() = default;

absl::StatusOr<std::unique_ptr<IndexDb>> LossyRocksIndex::Open(const std::string& path) {
  files_->Begin(path);
  absl::StatusOr<std::unique_ptr<IndexDb>> db = index::OpenRocksIndexOn(*env_, path);
  if (disk_.dead()) return absl::UnavailableError("index: the node is dead");
  if (absl::Status checked = CheckOpened(db); !checked.ok()) return checked;
  return std::make_unique<Db>(*this, *std::move(db));
}

absl::Status LossyRocksIndex::CheckOpened(const absl::StatusOr<std::unique_ptr<IndexDb>>& db) {
  // It was never made whole, or RocksDB can't tell a batch that was torn from one that has rotted.
  if (absl::IsDataLoss(db.status()) && (now_.contains(Rows{}) || files_->left_zeros())) {
    files_->ForgetZeros();
    now_ = kept_ = {Rows{}};
    return db.status();
  }
  if (!db.ok()) return absl::InternalError(db.status().message());
  absl::StatusOr<Rows> rows = RowsOf(**db);
  if (!rows.ok()) return absl::InternalError(rows.status().message());
  if (broken_ || !now_.contains(*rows)) return absl::InternalError("the index lost a batch, or made one up");
  files_->ForgetZeros();
  // The store goes by what it reads now, so it must be there from now on.
  now_ = kept_ = {*std::move(rows)};
  return absl::OkStatus();
}

void LossyRocksIndex::Wrote(const IndexBatch& batch, Durability durability, bool ok, bool reached) {
  if (!reached) return;
  States after;
  for (Rows rows : now_) {
    Apply(batch, &rows);
    after.insert(std::move(rows));
  }
  if (ok) {
    now_ = std::move(after);
  } else {
    now_.merge(after);
  }
  if (ok && durability == Durability::kSynced) kept_.clear();
  kept_.insert(now_.begin(), now_.end());
}

// What had failed before was either found when the database was opened anew, or is gone.
void LossyRocksIndex::Look(IndexDb& db) {
  absl::StatusOr<Rows> rows = RowsOf(db);
  if (disk_.dead() || !rows.ok()) return;
  broken_ = broken_ || !now_.contains(*rows);
  now_ = {*std::move(rows)};
}

void LossyRocksIndex::LosePower() {
  files_->LosePower();
  now_ = kept_;
}

bool LossyRocksIndex::MayClaim(const Digest& digest, ChunkIndex chunk, uint64_t inode) const {
  for (const Rows& rows : kept_) {
    if (Claims(rows, digest, chunk, inode)) return true;
  }
  return false;
}

}  // namespace sluice::sim
