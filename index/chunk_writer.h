#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <span>

#include "absl/status/status.h"
#include "index/blob_entry.h"
#include "index/claim_log.h"
#include "index/disk_usage.h"
#include "index/file_guard.h"
#include "index/notifier.h"
#include "index/store_file_system.h"
#include "index/syncer.h"
#include "node/blob.h"
#include "node/chunk_store.h"

namespace sluice::index {

// Writes chunks, and takes them back. Before a chunk's bytes are overwritten, its claim is gone from the
// index and the kernel's side has heard that it must ask.
//
// Thread-safe; every method may block on disk.
class ChunkWriter {
 public:
  // All outlive the writer.
  struct Parts {
    StoreFileSystem& file_system;
    FileGuard& guard;
    ClaimLog& log;
    Notifier& notifier;
    Syncer& syncer;
    DiskUsage& usage;
  };
  explicit ChunkWriter(Parts parts) : parts_(parts) {}

  // As ChunkStore::Commit. REQUIRES: `blob` is of the entry's id, and `bytes` have the chunk's length
  absl::Status Commit(const EntryPtr& entry, Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                      Evidence evidence);
  // As ChunkStore::Revoke.
  absl::Status Revoke(const EntryPtr& entry, Blob& blob, ChunkIndex index);

 private:
  struct Chunk {
    const EntryPtr& entry;
    Blob& blob;
    ChunkIndex index;
    std::span<const std::byte> bytes;
    Evidence evidence;
    ByteRange range() const { return blob.geometry().RangeOf(index); }
  };

  bool RaiseEvidence(const Chunk& chunk, const FileGuard::Opened& file);
  absl::Status Write(const Chunk& chunk, const FileGuard::Opened& file);
  absl::Status MakeSafeToWrite(const Chunk& chunk);
  absl::Status MakeRoom(const Chunk& chunk, int fd);
  absl::Status Reserve(int fd, ByteRange range);
  bool HoldsBytes(int fd, ByteRange range, std::span<const std::byte> bytes) const;
  std::mutex& StripeOf(const BlobKey& id, ChunkIndex index);

  const Parts parts_;
  std::atomic<bool> reserve_works_{true};
  // One of them is held while a chunk is written, so that no two writers of one chunk mix. Taken before all
  // other locks of the store.
  std::array<std::mutex, 64> stripes_;
};

}  // namespace sluice::index
