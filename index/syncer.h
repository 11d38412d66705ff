#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "index/blob_entry.h"
#include "index/blob_files.h"
#include "index/claim_log.h"
#include "index/disk_usage.h"
#include "index/entry_table.h"
#include "index/file_guard.h"
#include "index/notifier.h"
#include "index/sync_loop.h"
#include "index/sync_pool.h"
#include "node/executor.h"
#include "node/telemetry.h"

namespace sluice::index {

// From written to claimed to settled, in batches: the files are synced side by side, then one write of the
// claims' log says what is on disk, then what is whole now is announced. If the sync of a file or that write
// fails, what had been written since the last batch is taken back.
//
// Thread-safe. Lock order: stripes of ChunkWriter, its own, BlobEntry::mutex.
class Syncer {
 public:
  static constexpr size_t kQueuedBlobsMax =
      512;                                   // with writes that no sync has covered; each holds a file open
  static constexpr size_t kSyncThreads = 8;  // files synced side by side

  // All outlive the syncer.
  struct Parts {
    StoreFileSystem& file_system;
    BlobFiles& files;
    FileGuard& guard;
    ClaimLog& log;
    Notifier& notifier;
    const EntryTable& table;
    DiskUsage& usage;
    Telemetry& telemetry;
    const std::function<void(const std::string&)>& alarm;
    // All chunks of a blob are durable, and the whole was not hashed yet.
    std::function<void(const BlobKey&)> check_whole;
  };
  struct Limits {
    Duration interval;
    uint64_t bytes_max;
  };
  // With Threads::kNone a batch runs when RunBatch or Flush is called.
  Syncer(Parts parts, Limits limits, Threads threads);

  // The entry has something for the next batch. REQUIRES: it is not locked
  void Queue(const EntryPtr& entry, uint64_t bytes);
  // Whether no more blobs may be queued for now. Then a batch is due.
  bool IsFull();
  // Announces the blob if it is settled, and has it hashed if only that is lacking. REQUIRES: it is not
  // locked
  void Settle(const EntryPtr& entry);
  // Returns when all that was queued before has been claimed or taken back.
  void Flush();
  // Returns whether anything was queued. REQUIRES: Threads::kNone
  bool RunBatch() { return RunOneBatch(); }
  // Runs a last batch and ends the threads. Idempotent.
  void Stop();

 private:
  bool RunOneBatch();
  absl::Status SyncFile(const EntryPtr& entry);
  void FailSync(const EntryPtr& entry, const absl::Status& why);
  void PutRecords();

  const Parts parts_;
  const Threads threads_;
  std::atomic<bool> stopping_{false};

  std::mutex queue_mutex_;
  std::vector<EntryPtr> queue_;  // for the next batch; guarded by queue_mutex_
  Instant records_put_at_;       // the batches' thread only

  SyncPool pool_;
  std::unique_ptr<SyncLoop> loop_;  // null with Threads::kNone; not for its own thread, which may be quicker
};

}  // namespace sluice::index
