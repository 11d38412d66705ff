#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/digest.h"
#include "ondemand/erofs_instance.h"

namespace sluice {

// A blob that a mount reads, and the very entry of the store whose file that is.
struct MountedBlob {
  BlobKey key;
  BlobSpec spec;  // as the entry knows it, with the repository of the mount's image
};

// One mount as it must be found again by the next daemon.
struct MountEntry {
  std::string mount_point;  // absolute
  std::string reference;    // as it was asked for
  Digest manifest;
  std::string backend;
  MountedBlob bootstrap;
  std::vector<MountedBlob> blobs;  // in the order of the bootstrap's device table
  // Known once it was mounted.
  ondemand::ErofsInstance instance = {};
  uint64_t device = 0;  // its file system's, as st_dev
};

// The table of mounts: a small JSON file of its own, so that a damaged index can't make a daemon forget which
// files the kernel still reads from. An entry is written before its mount is made and removed after it is
// gone. One whose file system somebody uses when it is unmounted (below an overlay, by an open file, in
// another mount namespace) is detached: it is kept, beside what may be mounted at its place anew, until its
// file system is gone.
//
// Not thread-safe.
class MountTable {
 public:
  static constexpr size_t kBytesMax = 16 << 20;

  // An absent file is an empty table. One that is a copy of another moment, put back, has only those entries
  // whose file systems live: see is_copy(). Errors: DataLoss (the file is no table; it is left as it is),
  // Unavailable.
  static absl::StatusOr<MountTable> Load(std::string path);

  const std::vector<MountEntry>& entries() const { return entries_; }
  const std::vector<MountEntry>& detached() const { return detached_; }
  const MountEntry* Find(const std::string& mount_point) const;
  // Whether the file that was loaded is not the one that a daemon wrote, and so may lack mounts that there
  // are.
  bool is_copy() const { return is_copy_; }

  // All replace the file atomically and synced. Errors: Unavailable. Then Add has changed nothing; the others
  // have changed the table, and leave it to the next daemon to find out from the file what they knew.
  absl::Status Add(MountEntry entry);
  absl::Status Remove(const std::string& mount_point);
  // Says which file system the mount is of. REQUIRES: Find(mount_point)
  absl::Status Identify(const std::string& mount_point, const ondemand::ErofsInstance& instance,
                        uint64_t device);
  // Somebody has moved the mount. REQUIRES: Find(from), and not Find(to)
  absl::Status Move(const std::string& from, const std::string& to);
  // Makes the entry a detached one. REQUIRES: Find(mount_point), and its instance is known
  absl::Status Detach(const std::string& mount_point);
  absl::Status RemoveDetached(const ondemand::ErofsInstance& instance);

 private:
  explicit MountTable(std::string path) : path_(std::move(path)) {}
  void KeepWhatLives();
  absl::Status Save() const { return Save(entries_); }
  absl::Status Save(const std::vector<MountEntry>& entries) const;

  std::string path_;
  std::vector<MountEntry> entries_;
  std::vector<MountEntry> detached_;
  bool is_copy_ = false;
};

}  // namespace sluice
