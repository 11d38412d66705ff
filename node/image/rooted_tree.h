#pragma once

#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/image/unique_fd.h"

namespace sluice {

inline constexpr size_t kTreeDepthMax = 256;  // of directories within directories

// What a file has besides its contents.
struct FileMetadata {
  uid_t uid = 0;
  gid_t gid = 0;
  mode_t permissions = 0;  // with set-user-id, set-group-id and sticky
  timespec mtime{};
  std::map<std::string, std::string>
      xattrs;  // set in this order, so that the image built from it is the same
};

// A directory into which layers are unpacked, as if it were "/". No path leads out of it: ".." is refused,
// and the kernel resolves symbolic links as a chroot would (openat2, RESOLVE_IN_ROOT).
//
// It knows what the layer under way has put there, since a whiteout hides only what lower layers left.
// Errors, of all calls: InvalidArgument (a path or an entry that can't be), FailedPrecondition (a parent that
// is no directory or leads nowhere), PermissionDenied, ResourceExhausted, Unavailable. One thread at a time.
class RootedTree {
 public:
  // An open directory and the name of something in it, which may or may not exist.
  struct Place {
    struct Directory {
      UniqueFd fd;
      ino_t inode = 0;
    };
    std::shared_ptr<const Directory> parent;
    std::string name;  // one component; "." is the root itself
    std::string path;  // as asked for, for messages
  };

  // `path` is an existing directory.
  static absl::StatusOr<RootedTree> Open(const std::string& path);

  // Where a path of an archive lies. Missing parents are made.
  absl::StatusOr<Place> Locate(std::string_view path);

  // What is there from here on belongs to a lower layer.
  void BeginLayer() { touched_.clear(); }
  // Removes what lower layers left at a place, or in the directory that a place lies in.
  absl::Status RemoveLower(const Place& place);
  absl::Status RemoveLowerSiblings(const Place& place);

  // Each replaces what is at the place; a directory keeps what is in it.
  absl::Status MakeDirectory(const Place& place);
  absl::StatusOr<UniqueFd> MakeFile(const Place& place);  // open for writing
  absl::Status MakeHardLink(const Place& place, const Place& target);
  absl::Status MakeSymlink(const Place& place, const std::string& target);
  absl::Status MakeNode(const Place& place, mode_t type,
                        dev_t device);  // S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK

  absl::Status SetMetadata(const Place& place, const FileMetadata& metadata);

  // Gives the directories their modification times, which every change within moves. Those that no layer has
  // named get 0.
  absl::Status Finish();

 private:
  using Touched = std::pair<ino_t, std::string>;  // directory, name within

  RootedTree(std::string path, UniqueFd root);

  void Touch(const Place::Directory& parent, std::string_view name) { touched_.emplace(parent.inode, name); }
  bool IsTouched(ino_t parent, std::string_view name) const {
    return touched_.contains(Touched(parent, std::string(name)));
  }
  absl::StatusOr<std::shared_ptr<const Place::Directory>> OpenParent(std::string_view path);
  absl::Status Vacate(const Place& place);

  template <typename Visit>
  absl::Status ForEachChild(int directory, const Visit& visit);
  absl::Status RemoveTree(int parent, const std::string& name, size_t depth);
  absl::Status RemoveUntouched(int parent, ino_t parent_inode, const std::string& name, size_t depth);
  absl::Status RestoreTimes(int directory, size_t depth);
  absl::Status Failed(std::string_view what, std::string_view path) const;

  const std::string path_;
  UniqueFd root_;
  absl::flat_hash_set<Touched> touched_;
  absl::flat_hash_map<ino_t, timespec> directory_times_;
  // The parent located last: archives name the files of a directory one after another. Dropped whenever
  // something is removed, since only that can lead the same path elsewhere.
  std::string last_parent_path_;
  std::shared_ptr<const Place::Directory> last_parent_;
};

}  // namespace sluice
