#include "index/syncer.h"

#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"

namespace sluice::index {
namespace {

constexpr Duration kIdleInterval = std::chrono::seconds(60);
// Last accesses are put no more often than this, unless their blob is in a batch anyway.
constexpr Duration kRecordsInterval = std::chrono::seconds(60);

}  // namespace

Syncer::Syncer(Parts parts, Limits limits, Threads threads)
    : parts_(std::move(parts)),
      threads_(threads),
      records_put_at_(std::chrono::steady_clock::now()),
      pool_(threads == Threads::kOwn ? kSyncThreads - 1 : 0) {
  if (threads == Threads::kNone) return;
  loop_ = std::make_unique<SyncLoop>(SyncLoop::Limits{limits.interval, kIdleInterval, limits.bytes_max},
                                     [this] { RunOneBatch(); });
}

void Syncer::Queue(const EntryPtr& entry, uint64_t bytes) {
  {
    std::scoped_lock lock(queue_mutex_, entry->mutex);
    if (!std::exchange(entry->queued, true)) queue_.push_back(entry);
  }
  if (loop_) loop_->Wrote(bytes);
}

bool Syncer::IsFull() {
  {
    std::lock_guard lock(queue_mutex_);
    if (queue_.size() < kQueuedBlobsMax) return false;
  }
  if (loop_) loop_->Hurry();
  return true;
}

void Syncer::Flush() {
  if (loop_) {
    loop_->Flush();
  } else {
    RunOneBatch();
  }
}

void Syncer::Stop() {
  const bool stopped = stopping_.exchange(true);
  if (loop_) {
    loop_->Stop();
  } else if (!stopped) {
    RunOneBatch();
  }
}

bool Syncer::RunOneBatch() {
  std::vector<EntryPtr> batch;
  {
    std::lock_guard lock(queue_mutex_);
    batch.swap(queue_);
  }
  std::vector<absl::Status> synced(batch.size());
  pool_.ForEach(batch.size(), [&](size_t i) { synced[i] = SyncFile(batch[i]); });
  std::vector<EntryPtr> claimable;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (synced[i].ok()) {
      claimable.push_back(batch[i]);
    } else {
      FailSync(batch[i], synced[i]);
    }
  }
  // A file whose name a crash may still lose must not be claimed either.
  absl::Status claimed = claimable.empty() ? absl::OkStatus() : parts_.files.SyncNames();
  if (claimed.ok()) claimed = parts_.log.Claim(claimable);
  if (!claimed.ok()) {
    for (const EntryPtr& entry : claimable) FailSync(entry, claimed);
  }
  for (const EntryPtr& entry : batch) Settle(entry);
  PutRecords();
  parts_.usage.MeasureRest();
  return !batch.empty();
}

absl::Status Syncer::SyncFile(const EntryPtr& entry) {
  BlobFdCache::Fd fd;
  {
    std::lock_guard lock(entry->mutex);
    fd = entry->BeginSync();
  }
  if (!fd) return absl::OkStatus();
  if (parts_.file_system.SyncData(fd->get()) != 0) {
    return WriteError(errno, absl::StrCat("sync the file of ", entry->Name()));
  }
  return parts_.guard.CheckSynced(entry, fd->get());
}

void Syncer::FailSync(const EntryPtr& entry, const absl::Status& why) {
  {
    std::lock_guard lock(entry->mutex);
    entry->TakeBackUnclaimed();
    parts_.notifier.Schedule(entry);
  }
  parts_.telemetry.sync_failures.Add();
  if (!parts_.alarm) return;
  parts_.alarm(absl::StrCat(why.message(), "; what was written to ", entry->Name(),
                            " since the last sync will be fetched again"));
}

void Syncer::Settle(const EntryPtr& entry) {
  {
    std::lock_guard lock(entry->mutex);
    if (!entry->Durable() || entry->announced) return;
    entry->room.Forget();
    if (entry->Settled()) {
      entry->announced = entry->announce_due = true;
      parts_.notifier.Schedule(entry);
      return;
    }
  }
  parts_.check_whole(entry->id);
}

void Syncer::PutRecords() {
  const Instant now = std::chrono::steady_clock::now();
  // Without a thread there is no time that passes either: a run of batches is always the same.
  const bool timed = threads_ != Threads::kNone;
  if (timed && now - records_put_at_ < kRecordsInterval && !stopping_) return;
  records_put_at_ = now;
  const absl::Status put = parts_.log.PutChangedRecords(parts_.table.All());
  if (put.ok() || !parts_.alarm) return;
  parts_.alarm(absl::StrCat(put.message(), "; the times of last access are not recorded"));
}

}  // namespace sluice::index
