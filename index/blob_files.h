#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/blob_fd_cache.h"
#include "index/content_files.h"
#include "index/data_dir.h"
#include "index/file_descriptor.h"
#include "index/file_identity.h"
#include "index/store_file_system.h"
#include "node/blob_key.h"

namespace sluice::index {

// The files in blobs/: made, marked, told from others, removed; and those that are read in place, which are
// only found and told from others. It knows nothing of claims.
//
// Thread-safe; every method may block on disk.
class BlobFiles {
 public:
  // REQUIRES: all outlive this
  BlobFiles(const DataDir& data_dir, StoreFileSystem& file_system, const ContentFiles& content,
            size_t open_files_max);

  // Makes the entry's file, sparse and of `size` bytes, in place of whatever has its name. Errors:
  // ResourceExhausted, Unavailable.
  absl::StatusOr<FileIdentity> Make(const BlobKey& id, uint64_t size);
  // As Make, but a file that is there stays the same file: a mount may read from it.
  absl::StatusOr<FileIdentity> TakeOver(const BlobKey& id, uint64_t size);
  // As Make, with the bytes of `from`, whose room on disk it shares; synced, but for its name. Errors:
  // Unimplemented (the file system can't, or the two are on different ones; nothing is left then);
  // ResourceExhausted, Unavailable.
  absl::StatusOr<FileIdentity> Clone(const BlobKey& id, uint64_t size, int from);
  // Errors: Unavailable. It is no error if there is none.
  absl::Status Remove(const BlobKey& id);

  // For reading and writing, shared, kept open. Errors: NotFound (the name is another file's, or nobody's; or
  // the file is read in place); Unavailable.
  absl::StatusOr<BlobFdCache::Fd> OpenForWrite(const BlobKey& id, const FileIdentity& file);
  // Errors: NotFound (as above, or too short); Unavailable.
  absl::StatusOr<FileDescriptor> OpenForRead(const BlobKey& id, const FileIdentity& file, uint64_t size);

  // Whether `fd` is `file`, has its size, and has its name. Never what is read in place: nothing of it is
  // written.
  bool IsFile(const BlobKey& id, const FileIdentity& file, uint64_t size, int fd);
  // The same of what has the name, by all that tells files apart, the mark too; if it is, what the file
  // system has allocated to it, in bytes.
  std::optional<uint64_t> Find(const BlobKey& id, const FileIdentity& file, uint64_t size);
  // The same without opening it, so without the mark.
  bool HasName(const BlobKey& id, const FileIdentity& file, uint64_t size);

  // Makes the names of files that were made since the last call survive a crash. Errors: Unavailable; then
  // the next call tries again.
  absl::Status SyncNames();

  // What the file system has allocated to an open file; 0 if it can't be told.
  static uint64_t AllocatedBytes(int fd);

 private:
  absl::StatusOr<FileIdentity> Prepare(const BlobKey& id, uint64_t size, int flags);
  absl::StatusOr<FileIdentity> Identify(int fd);
  absl::StatusOr<FileIdentity::Mark> SetNewMark(int fd);

  const DataDir& data_dir_;
  StoreFileSystem& file_system_;
  const ContentFiles& content_;
  BlobFdCache fds_;
  std::atomic<bool> names_changed_{true};  // a predecessor that was killed may have left some unsynced
};

}  // namespace sluice::index
