#include "index/claim_log.h"

#include <utility>

namespace sluice::index {

absl::Status ClaimLog::PutRecord(const BlobKey& id, const BlobRecord& record) {
  std::lock_guard lock(mutex_);
  IndexBatch batch;
  batch.PutBlob(id, record);
  // Claims come later in the same log, so none of them can outlive the record.
  return db_->Write(batch, Durability::kOrdered);
}

absl::Status ClaimLog::ChangeRecord(BlobEntry& entry, const std::function<void(BlobRecord&)>& change,
                                    Durability durability) {
  std::lock_guard lock(mutex_);
  IndexBatch batch;
  {
    std::lock_guard entry_lock(entry.mutex);
    if (entry.evicting) return absl::OkStatus();
    BlobRecord changed = entry.record;
    change(changed);
    batch.PutBlob(entry.id, changed);
  }
  if (absl::Status written = db_->Write(batch, durability); !written.ok()) return written;
  // What else changed meanwhile, like the last access, stands.
  std::lock_guard entry_lock(entry.mutex);
  change(entry.record);
  return absl::OkStatus();
}

absl::Status ClaimLog::PutChangedRecords(std::span<const EntryPtr> entries) {
  std::lock_guard lock(mutex_);
  IndexBatch batch;
  std::vector<EntryPtr> staged;
  for (const EntryPtr& entry : entries) {
    std::lock_guard entry_lock(entry->mutex);
    if (!entry->record_changed || entry->evicting) continue;
    entry->StageRecord(&batch);
    staged.push_back(entry);
  }
  return Write(batch, staged, Durability::kOrdered);
}

absl::Status ClaimLog::Claim(std::span<const EntryPtr> entries) {
  std::lock_guard lock(mutex_);
  IndexBatch batch;
  for (const EntryPtr& entry : entries) {
    std::lock_guard entry_lock(entry->mutex);
    entry->StageClaims(&batch);
  }
  if (absl::Status written = Write(batch, entries, Durability::kSynced); !written.ok()) return written;
  for (const EntryPtr& entry : entries) {
    std::lock_guard entry_lock(entry->mutex);
    entry->EndSync();
  }
  return absl::OkStatus();
}

absl::Status ClaimLog::ClaimVerifiedWhole(BlobEntry& entry, uint64_t revision,
                                          const std::optional<Digest>& root) {
  std::lock_guard lock(mutex_);
  IndexBatch batch;
  {
    std::lock_guard entry_lock(entry.mutex);
    if (entry.revision != revision || entry.evicting) return absl::OkStatus();
    entry.StageVerifiedWhole(root, &batch);
  }
  // If this is lost, the blob is hashed once more after a restart: a cost, not an error.
  return db_->Write(batch, Durability::kSynced);
}

absl::Status ClaimLog::Drop(BlobEntry& entry) {
  std::lock_guard lock(mutex_);
  IndexBatch batch;
  ChunkSet dropped;
  {
    std::lock_guard entry_lock(entry.mutex);
    dropped = entry.StageDrops(&batch);
  }
  if (batch.empty()) return absl::OkStatus();
  const absl::Status written = db_->Write(batch, Durability::kSynced);
  std::lock_guard entry_lock(entry.mutex);
  if (written.ok()) {
    entry.claimed.Subtract(dropped);
  } else {
    entry.record_changed = true;
  }
  return written;
}

absl::Status ClaimLog::DropAll(BlobEntry& entry) {
  std::lock_guard lock(mutex_);
  IndexBatch batch;
  {
    std::lock_guard entry_lock(entry.mutex);
    if (entry.evicting) return absl::OkStatus();
    batch.DeleteSegments(entry.id, entry.blob->geometry());
    entry.StageRecord(&batch);
  }
  const absl::Status written = db_->Write(batch, Durability::kSynced);
  std::lock_guard entry_lock(entry.mutex);
  if (written.ok()) {
    entry.claimed.Clear();
  } else {
    entry.record_changed = true;
  }
  return written;
}

absl::Status ClaimLog::DropAllAndEarlier(std::span<const EntryPtr> entries) {
  std::lock_guard lock(mutex_);
  IndexBatch batch;
  batch.DeleteEarlier();
  for (const EntryPtr& entry : entries) {
    std::lock_guard entry_lock(entry->mutex);
    batch.DeleteSegments(entry->id, entry->blob->geometry());
    entry->StageRecord(&batch);
  }
  if (absl::Status written = Write(batch, entries, Durability::kSynced); !written.ok()) return written;
  for (const EntryPtr& entry : entries) {
    std::lock_guard entry_lock(entry->mutex);
    entry->claimed.Clear();
  }
  return absl::OkStatus();
}

absl::Status ClaimLog::Delete(const BlobEntry& entry, const std::function<bool()>& make_room) {
  IndexBatch batch;
  batch.DeleteBlob(entry.id, entry.blob->geometry());
  absl::Status written = WriteDeletion(batch);
  // Making room must not fail for want of room. It is made without the lock, which somebody may wait for who
  // holds what making room takes; nothing else is written of an entry that is being evicted.
  while (!written.ok() && !absl::IsDataLoss(written) && make_room()) {
    db_->Reopen();
    written = WriteDeletion(batch);
  }
  return written;
}

absl::Status ClaimLog::WriteDeletion(const IndexBatch& batch) {
  std::lock_guard lock(mutex_);
  return db_->Write(batch, Durability::kSynced);
}

absl::Status ClaimLog::Write(const IndexBatch& batch, std::span<const EntryPtr> staged,
                             Durability durability) {
  if (batch.empty()) return absl::OkStatus();
  const absl::Status written = db_->Write(batch, durability);
  if (written.ok()) return written;
  for (const EntryPtr& entry : staged) {
    std::lock_guard entry_lock(entry->mutex);
    entry->record_changed = true;
  }
  return written;
}

}  // namespace sluice::index
