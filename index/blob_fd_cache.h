#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "index/file_descriptor.h"
#include "index/file_identity.h"
#include "index/store_file_system.h"
#include "node/blob_key.h"

namespace sluice::index {

// Keeps the blob files that were used last open. A file that someone still uses stays open beyond the bound
// until its last user lets go.
//
// Thread-safe.
class BlobFdCache {
 public:
  using Fd = std::shared_ptr<const FileDescriptor>;

  // `capacity` descriptors, but never more than a quarter of RLIMIT_NOFILE, and at least one.
  // REQUIRES: `directory` and `file_system` outlive the cache.
  BlobFdCache(int directory, StoreFileSystem& file_system, size_t capacity);

  // The entry's file, open for reading and writing. Errors: NotFound (no file of that inode has its name),
  // Unavailable (also: out of descriptors).
  absl::StatusOr<Fd> Get(const BlobKey& id, const FileIdentity& file);
  // Forgets a file that was removed or replaced.
  void Drop(const BlobKey& id);

  size_t capacity() const { return capacity_; }

 private:
  struct Slot {
    BlobKey id;
    Fd fd;
  };

  const int directory_;
  StoreFileSystem& file_system_;
  const size_t capacity_;

  std::mutex mutex_;        // guards what follows
  std::list<Slot> by_use_;  // the last used in front
  absl::flat_hash_map<BlobKey, std::list<Slot>::iterator> slots_;
};

}  // namespace sluice::index
