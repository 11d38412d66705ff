#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/file_descriptor.h"
#include "node/blob_key.h"

namespace sluice::index {

// The store's directory, locked for as long as this object lives:
//   LOCK               flock(2)ed; names the process that holds it
//   VERSION            version of this layout
//   blobs/<64 hex>     one sparse file per blob, at its full size (the name is BlobKey::FileName's)
//   recipes/<64 hex>   its recipe
//   index/             RocksDB
//   RESERVE            space set aside, so that a full disk can still be opened and evicted from
//   index.damaged-<n>  the last index that had to be given up
// Other names are left alone.
class DataDir {
 public:
  // The index needs this much to open: a manifest, an empty log, and a flush of what the last log held.
  static constexpr uint64_t kReserveBytes = 16 << 20;

  // Makes what is missing, below an existing parent too. Errors: FailedPrecondition (held by another process,
  // which is named; not a directory; another version's layout; foreign files), PermissionDenied (not
  // writable, or a read-only file system), Unavailable (any other).
  static absl::StatusOr<DataDir> OpenAndLock(const std::string& path);

  DataDir(DataDir&&) = default;
  DataDir& operator=(DataDir&&) = default;

  const std::string& path() const { return path_; }
  std::string blobs_path() const { return path_ + "/blobs"; }
  std::string index_path() const { return path_ + "/index"; }
  std::string BlobPath(const BlobKey& id) const { return blobs_path() + "/" + id.FileName(); }
  // Open descriptors of blobs/ and recipes/.
  int blobs_fd() const { return blobs_.get(); }
  int recipes_fd() const { return recipes_.get(); }

  // The entries that a file in blobs/ is named by. Errors: Unavailable.
  absl::StatusOr<std::vector<BlobKey>> ListBlobFiles() const;
  // The names of all files in recipes/. Errors: Unavailable.
  absl::StatusOr<std::vector<std::string>> ListRecipeFiles() const;

  // Moves index/ to index.damaged-<n>, in place of an earlier one. No-op if there is none. Errors:
  // Unavailable.
  absl::Status SetIndexAside() const;

  // Sets kReserveBytes aside if they are to be had and are not set aside already.
  void KeepReserve() const;
  // Gives them to whoever needs space now. Returns whether there were any.
  bool ReleaseReserve() const;

 private:
  DataDir(std::string path, FileDescriptor lock, FileDescriptor blobs, FileDescriptor recipes)
      : path_(std::move(path)),
        lock_(std::move(lock)),
        blobs_(std::move(blobs)),
        recipes_(std::move(recipes)) {}

  std::string path_;
  FileDescriptor lock_;
  FileDescriptor blobs_;
  FileDescriptor recipes_;
};

}  // namespace sluice::index
