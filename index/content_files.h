#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/file_descriptor.h"
#include "index/file_identity.h"
#include "node/digest.h"

namespace sluice::index {

// The blobs that containerd's content store holds: blobs/sha256/<64 hex> below its folder, each put there
// whole, by a rename. They are read and nothing else: not written to, linked to or removed. Source:
// containerd, docs/content-flow.md, and plugins/content/local.
//
// Thread-safe; every method may block on disk. Has no state: a folder that comes later is found.
class ContentFiles {
 public:
  // Of more names in the folder the rest is left out.
  static constexpr size_t kFilesMax = 65'536;

  // `root` is the content store's folder; empty: there is none.
  explicit ContentFiles(const std::string& root) : blobs_(root.empty() ? "" : root + "/blobs/sha256") {}

  struct Found {
    FileDescriptor fd;  // for reading
    FileIdentity file;
    uint64_t size = 0;
  };
  // Errors: NotFound (it is not there, or no regular file has its name); PermissionDenied; Unavailable.
  absl::StatusOr<Found> Open(const Digest& digest) const;
  // Whether what has that name is `file`, as it was; it is not opened.
  bool Holds(const Digest& digest, const FileIdentity& file, uint64_t size) const;
  // What has a digest's name, in any order. Errors: NotFound (there is no such folder); PermissionDenied;
  // Unavailable.
  absl::StatusOr<std::vector<Digest>> List() const;

  std::string PathOf(const Digest& digest) const { return blobs_ + "/" + digest.Hex(); }

 private:
  const std::string blobs_;
};

}  // namespace sluice::index
