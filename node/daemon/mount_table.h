#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"

namespace sluice {

// One mount as it must be found again by the next daemon.
struct MountEntry {
  std::string mount_point;  // absolute
  std::string reference;    // as it was asked for
  Digest manifest;
  std::string backend;
  BlobSpec bootstrap;
  std::vector<BlobSpec> blobs;  // in the order of the bootstrap's device table
};

// The table of mounts: a small JSON file of its own, so that a damaged index can't make a daemon forget which
// files the kernel still reads from. An entry is written before its mount is made and removed after it is
// gone.
//
// Not thread-safe.
class MountTable {
 public:
  static constexpr size_t kBytesMax = 16 << 20;

  // An absent file is an empty table. Errors: DataLoss (the file is no table; it is left as it is),
  // Unavailable.
  static absl::StatusOr<MountTable> Load(std::string path);

  const std::vector<MountEntry>& entries() const { return entries_; }
  const MountEntry* Find(const std::string& mount_point) const;

  // Both replace the file atomically and synced. Errors: Unavailable. Then Add has changed nothing; Remove
  // has forgotten the entry, and leaves it to the next daemon to find in the file that the mount is gone.
  absl::Status Add(MountEntry entry);
  absl::Status Remove(const std::string& mount_point);

 private:
  explicit MountTable(std::string path) : path_(std::move(path)) {}
  absl::Status Save(const std::vector<MountEntry>& entries) const;

  std::string path_;
  std::vector<MountEntry> entries_;
};

}  // namespace sluice
