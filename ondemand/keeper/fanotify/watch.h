#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/result.h"

namespace sluice::keeper {

// A file's identity on this machine.
struct FileId {
  uint64_t device = 0;
  uint64_t inode = 0;
  friend bool operator==(const FileId&, const FileId&) = default;
};

// Lies in the store's directory and is one hole; a read of it must raise an event.
inline constexpr char kCanaryName[] = ".canary";
inline constexpr uint64_t kCanaryBytes = 4096;

// The store's files as seen through a private, nameless copy of their mount that carries one fanotify mark:
// whatever is opened through `tree` asks the group before it reads. What is opened through `store` does not.
// Sources: fanotify_mark(2) FAN_MARK_MOUNT and FAN_PRE_ACCESS, open_tree(2) OPEN_TREE_CLONE.
struct Watch {
  Descriptor group;
  Descriptor tree;
  Descriptor store;
  FileId canary;
};

// Sets up a new watch. Errors: EOPNOTSUPP, EINVAL, EPERM and others, with words that say what is missing.
Result<Watch> OpenWatch(const std::string& blobs_dir);

// A watch on descriptors that a predecessor's daemon has kept. Fails with ESTALE if `tree` is not a copy of
// blobs_dir.
Result<Watch> AdoptWatch(Descriptor group, Descriptor tree, const std::string& blobs_dir);

// Reads the canary through the watch. REQUIRES: another thread answers the group's events, counts the
// canary's in `canaries_seen` and refuses them. Fails with ENOTSUP if the read went through or raised no
// event: then holes of mounted blobs would read as zeros.
Outcome ProveWatch(const Watch& watch, const std::atomic<uint64_t>& canaries_seen);

// Takes the group's events off one file of the store, or puts them back. Idempotent. Fails with ESTALE if
// `name` is another file than `file`.
Outcome SetIgnoreMark(const Watch& watch, const std::string& name, FileId file);
Outcome ClearIgnoreMark(const Watch& watch, const std::string& name, FileId file);

// Has every read and write of the file ask the group that asks any at all: also those by descriptors that
// were opened through another watch, as the file systems of a dead keeper have them, and new ones of the
// daemon's. Goes with the file's last mark. Errors: as SetIgnoreMark.
Outcome WatchFile(const Watch& watch, const std::string& name, FileId file);
Outcome UnwatchFile(const Watch& watch, const std::string& name, FileId file);

// Puts the events of all files back, also of those that have no name any more.
// Source: fanotify_mark(2) FAN_MARK_FLUSH, which leaves the mark of the mount. Takes off the marks of
// WatchFile too.
Outcome ClearAllIgnoreMarks(const Watch& watch);

// The file `name` in `directory`; errors as openat(2).
Result<Descriptor> OpenIfSame(int directory, const std::string& name, FileId file);

}  // namespace sluice::keeper
