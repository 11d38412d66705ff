#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/blob_entry.h"
#include "index/blob_files.h"
#include "index/claim_log.h"
#include "index/disk_usage.h"
#include "index/notifier.h"
#include "node/telemetry.h"

namespace sluice::index {

// The guard over the blobs' files: what happens when one was cut short, removed, replaced or put back by
// somebody else. Its chunks are absent from then on, and it is made anew. A blob with leases of its file is
// refused instead, for the kernel goes on to read the file that was lost.
//
// Thread-safe; every method may block on disk. REQUIRES: no entry is locked by the caller.
class FileGuard {
 public:
  // All outlive the guard.
  struct Parts {
    BlobFiles& files;
    ClaimLog& log;
    Notifier& notifier;
    DiskUsage& usage;
    Telemetry& telemetry;
    const std::function<void(const std::string&)>& alarm;
  };
  explicit FileGuard(Parts parts) : parts_(parts) {}

  // A file as a writer holds it. What is written by `fd` counts only while BlobEntry::write_epoch is still
  // `write_epoch`, which was read before the file was opened; what was read by it, while
  // BlobEntry::revision is still `revision`.
  struct Opened {
    BlobFdCache::Fd fd;
    uint64_t write_epoch = 0;
    uint64_t revision = 0;
  };
  // The blob's file, made anew if it was lost. Errors: DataLoss (refused); NotFound (evicted); Unavailable
  // (lost just now, and made anew; the disk), ResourceExhausted.
  absl::StatusOr<Opened> OpenForWrite(const EntryPtr& entry);
  // Errors: DataLoss (refused, or lost just now); NotFound (evicted); Unavailable.
  absl::StatusOr<FileDescriptor> OpenForRead(const EntryPtr& entry);

  // Whether a file that was synced is the blob's, so that claims may be made over it; then what is allocated
  // to it is noted. Errors: Unavailable (it was lost).
  absl::Status CheckSynced(const EntryPtr& entry, int fd);
  // Finds files that are lost, by their names alone; returns how many.
  size_t CheckAll(std::span<const EntryPtr> entries);

  // Gives up a file that is read in place: the entry has one of its own then, and no chunk. No-op for others.
  void MakeOwn(const EntryPtr& entry);

  // Removes the file of an entry that is being evicted; none is made for it after that. Errors: Unavailable.
  absl::Status Remove(const EntryPtr& entry);

  // No byte of the blob is served again: it is not what its digest promises.
  void Refuse(const EntryPtr& entry, const std::string& why) { Refuse(entry, BlobState::kRefused, why); }

 private:
  // What is known of an entry's file before it is opened.
  struct Known {
    FileIdentity file;
    uint64_t size = 0;
    uint64_t write_epoch = 0;
    uint64_t revision = 0;
  };
  // Makes the file anew if it was lost. Errors: as OpenForWrite.
  absl::StatusOr<Known> FileOf(const EntryPtr& entry);
  void Lose(const EntryPtr& entry, const FileIdentity& file);
  void Refuse(const EntryPtr& entry, BlobState state, const std::string& why);
  absl::Status MakeAnew(const EntryPtr& entry);
  void Alarm(const std::string& text) const {
    if (parts_.alarm) parts_.alarm(text);
  }

  const Parts parts_;
  std::mutex make_mutex_;  // so that a lost file is made anew once; taken before a BlobEntry::mutex
};

// Errors that readers and writers of a blob get.
absl::Status RefusedBlob(const std::string& name);
absl::Status EvictedBlob(const std::string& name);

}  // namespace sluice::index
