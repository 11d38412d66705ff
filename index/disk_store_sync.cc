// From written to claimed to settled: the batches of the store, and the way back.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"
#include "index/disk_store.h"

namespace sluice::index {
namespace {

// Blobs with writes that no sync has covered; each holds a file open.
constexpr size_t kQueuedBlobsMax = 512;
// Last accesses are written no more often than this, unless their blob is in a batch anyway.
constexpr Duration kRecordsInterval = std::chrono::seconds(60);
constexpr uint64_t kStatBlockBytes = 512;  // unit of st_blocks, stat(2)

}  // namespace

void DiskStore::Queue(const Entry& entry, uint64_t bytes) {
  {
    std::scoped_lock lock(queue_mutex_, entry->mutex);
    if (!std::exchange(entry->queued, true)) queue_.push_back(entry);
  }
  sync_->Wrote(bytes);
}

bool DiskStore::QueueIsFull() {
  std::lock_guard lock(queue_mutex_);
  return queue_.size() >= kQueuedBlobsMax;
}

void DiskStore::RunBatch() {
  std::vector<Entry> batch;
  {
    std::lock_guard lock(queue_mutex_);
    batch.swap(queue_);
  }
  std::vector<Entry> synced;
  for (const Entry& entry : batch) {
    if (absl::Status status = SyncFile(*entry); status.ok()) {
      synced.push_back(entry);
    } else {
      FailSync(*entry, status);
    }
  }
  if (absl::Status claimed = ClaimSynced(synced); !claimed.ok()) {
    for (const Entry& entry : synced) FailSync(*entry, claimed);
  }
  for (const Entry& entry : batch) Settle(*entry);
  WriteRecords();
}

absl::Status DiskStore::SyncFile(BlobEntry& entry) {
  BlobFdCache::Fd fd;
  std::shared_ptr<Blob> blob;
  {
    std::lock_guard lock(entry.mutex);
    fd = entry.BeginSync();
    blob = entry.blob;
  }
  if (!fd) return absl::OkStatus();
  const std::string what = absl::StrCat("sync the file of blob ", blob->digest().ToString());
  if (options_.file_system.SyncData(fd->get()) != 0) return WriteError(errno, what);
  if (CheckFile(*blob, fd->get()) == FileCheck::kLost) {
    LoseFile(entry);
    return absl::UnavailableError(absl::StrCat(what, ": it was removed or cut short by somebody else"));
  }
  struct stat stat {};
  if (::fstat(fd->get(), &stat) == 0) {
    SetDiskBytes(entry, static_cast<uint64_t>(stat.st_blocks) * kStatBlockBytes);
  }
  return absl::OkStatus();
}

absl::Status DiskStore::ClaimSynced(const std::vector<Entry>& synced) {
  // A file whose name a crash may still lose must not be claimed either.
  if (!synced.empty() && directory_changed_.exchange(false) &&
      options_.file_system.SyncDirectory(data_dir_.blobs_fd()) != 0) {
    directory_changed_ = true;
    return WriteError(errno, absl::StrCat("sync ", blobs_dir()));
  }
  std::lock_guard write_lock(write_mutex_);
  IndexBatch batch;
  for (const Entry& entry : synced) {
    std::lock_guard lock(entry->mutex);
    entry->StageClaims(&batch);
  }
  if (batch.empty()) return absl::OkStatus();
  if (absl::Status written = db_->Write(std::move(batch), IndexDb::Durability::kSynced); !written.ok()) {
    return written;
  }
  for (const Entry& entry : synced) {
    std::lock_guard lock(entry->mutex);
    entry->EndSync();
  }
  return absl::OkStatus();
}

void DiskStore::FailSync(BlobEntry& entry, const absl::Status& why) {
  std::shared_ptr<Blob> blob;
  {
    std::lock_guard lock(entry.mutex);
    blob = entry.blob;
    entry.TakeBackUnclaimed();
  }
  options_.telemetry.sync_failures.Add();
  NotifyRevoked(*blob);
  Alarm(absl::StrCat(why.message(), "; what was written to blob ", blob->digest().ToString(),
                     " since the last sync will be fetched again"));
}

void DiskStore::Settle(BlobEntry& entry) {
  std::lock_guard notify_lock(notify_mutex_);
  std::shared_ptr<Blob> settled;
  {
    std::lock_guard lock(entry.mutex);
    if (!entry.Durable() || entry.announced) return;
    if (entry.Settled()) {
      entry.announced = true;
      settled = entry.blob;
    } else {
      hasher_->Enqueue(entry.blob->digest());
    }
  }
  // A chunk may be taken back from here on. Its on_revoke waits for the lock that is held, so it comes last.
  if (settled && options_.on_complete) options_.on_complete(settled);
}

void DiskStore::WriteRecords() {
  const Instant now = std::chrono::steady_clock::now();
  if (now - records_written_at_ < kRecordsInterval && !stopping_) return;
  records_written_at_ = now;
  std::lock_guard write_lock(write_mutex_);
  IndexBatch batch;
  for (const Entry& entry : Entries()) {
    std::lock_guard lock(entry->mutex);
    if (entry->record_changed && !entry->evicting) entry->StageRecord(&batch);
  }
  if (batch.empty()) return;
  if (absl::Status written = db_->Write(std::move(batch), IndexDb::Durability::kOrdered); !written.ok()) {
    Alarm(absl::StrCat(written.message(), "; the times of last access are not recorded"));
  }
}

absl::Status DiskStore::DropClaims(BlobEntry& entry) {
  std::lock_guard write_lock(write_mutex_);
  IndexBatch batch;
  std::vector<ChunkIndex> dropped;
  {
    std::lock_guard lock(entry.mutex);
    dropped = entry.StageDrops(&batch);
  }
  if (batch.empty()) return absl::OkStatus();
  if (absl::Status written = db_->Write(std::move(batch), IndexDb::Durability::kSynced); !written.ok()) {
    return written;
  }
  std::lock_guard lock(entry.mutex);
  for (const ChunkIndex index : dropped) entry.claimed.Remove(index);
  return absl::OkStatus();
}

void DiskStore::NotifyRevoked(const Blob& blob) {
  std::lock_guard notify_lock(notify_mutex_);
  if (options_.on_revoke) options_.on_revoke(blob);
}

void DiskStore::SetDiskBytes(BlobEntry& entry, uint64_t disk_bytes) {
  std::lock_guard lock(entry.mutex);
  options_.telemetry.cache_size_bytes.Add(static_cast<int64_t>(disk_bytes) -
                                          static_cast<int64_t>(entry.disk_bytes));
  entry.disk_bytes = disk_bytes;
}

}  // namespace sluice::index
