#include "ondemand/keeper/fanotify/watch.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>

#include "ondemand/keeper/fanotify/fanotify_uapi.h"

namespace sluice::keeper {
namespace {

constexpr unsigned kGroupFlags = FAN_CLASS_PRE_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE |
                                 FAN_UNLIMITED_MARKS | FAN_REPORT_TID;
// Read-only: a descriptor for writing can't be had on the read-only side of a watch, and the read would fail.
constexpr unsigned kEventFlags = O_RDONLY | O_LARGEFILE | O_CLOEXEC;
constexpr unsigned kIgnore = FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY;

Result<FileId> IdOf(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return ErrnoError("inspect a file of the store");
  return FileId{status.st_dev, status.st_ino};
}

Result<FileId> MakeCanary(int store) {
  Descriptor file(openat(store, kCanaryName, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.valid()) return ErrnoError("create the canary file in the store");
  // Emptied first: a block that somebody wrote would hide that holes are let through.
  if (ftruncate(file.get(), 0) != 0 || ftruncate(file.get(), kCanaryBytes) != 0) {
    return ErrnoError("size the canary file in the store");
  }
  return IdOf(file.get());
}

Result<Descriptor> OpenStore(const std::string& blobs_dir) {
  Descriptor store(open(blobs_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!store.valid()) return ErrnoError("open " + blobs_dir);
  return store;
}

Outcome ChangeMark(const Watch& watch, unsigned flags, const std::string& name, FileId file) {
  Result<Descriptor> opened = OpenIfSame(watch.store.get(), name, file);
  if (!opened.ok()) return opened.error();
  const int status = fanotify_mark(watch.group.get(), flags, FAN_PRE_ACCESS, opened.value().get(), nullptr);
  if (status == 0 || ((flags & FAN_MARK_REMOVE) != 0 && errno == ENOENT)) return {};
  return ErrnoError("change the mark of " + name);
}

}  // namespace

Result<Watch> OpenWatch(const std::string& blobs_dir) {
  Watch watch;
  watch.group.reset(fanotify_init(kGroupFlags, kEventFlags));
  if (!watch.group.valid())
    return ErrnoError("fanotify_init (needs CAP_SYS_ADMIN and CONFIG_FANOTIFY_ACCESS_PERMISSIONS)");
  Result<Descriptor> store = OpenStore(blobs_dir);
  if (!store.ok()) return store.error();
  watch.store = std::move(store.value());
  watch.tree.reset(open_tree(watch.store.get(), "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
  if (!watch.tree.valid()) return ErrnoError("copy the mount of " + blobs_dir + " (open_tree)");
  if (fanotify_mark(watch.group.get(), FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_PRE_ACCESS, watch.tree.get(),
                    ".") != 0) {
    return ErrnoError("watch " + blobs_dir +
                      " for reads (needs Linux 6.14 and ext4, xfs or btrfs; tmpfs and overlayfs refuse)");
  }
  Result<FileId> canary = MakeCanary(watch.store.get());
  if (!canary.ok()) return canary.error();
  watch.canary = canary.value();
  return watch;
}

Result<Watch> AdoptWatch(Descriptor group, Descriptor tree, const std::string& blobs_dir) {
  Watch watch{.group = std::move(group), .tree = std::move(tree), .store = {}, .canary = {}};
  Result<Descriptor> store = OpenStore(blobs_dir);
  if (!store.ok()) return store.error();
  watch.store = std::move(store.value());
  Result<FileId> ours = IdOf(watch.store.get());
  Result<FileId> theirs = IdOf(watch.tree.get());
  if (!ours.ok()) return ours.error();
  if (!theirs.ok()) return theirs.error();
  if (ours.value() != theirs.value()) return Error{ESTALE, "the inherited watch is not on " + blobs_dir};
  Result<FileId> canary = MakeCanary(watch.store.get());
  if (!canary.ok()) return canary.error();
  watch.canary = canary.value();
  return watch;
}

Outcome ProveWatch(const Watch& watch, const std::atomic<uint64_t>& canaries_seen) {
  const uint64_t seen_before = canaries_seen.load();
  Descriptor canary(openat(watch.tree.get(), kCanaryName, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!canary.valid()) return ErrnoError("open the canary file through the watch");
  char byte = 0;
  const ssize_t length = pread(canary.get(), &byte, 1, 0);
  const int error = errno;
  if (length < 0 && error == EIO && canaries_seen.load() != seen_before) return {};
  return Error{ENOTSUP,
               length >= 0
                   ? "the watch does not work: a hole read through it gave data instead of an event"
                   : std::string("the watch does not work: its canary failed with ") + std::strerror(error)};
}

Outcome SetIgnoreMark(const Watch& watch, const std::string& name, FileId file) {
  return ChangeMark(watch, FAN_MARK_ADD | kIgnore, name, file);
}

Outcome ClearIgnoreMark(const Watch& watch, const std::string& name, FileId file) {
  return ChangeMark(watch, FAN_MARK_REMOVE | kIgnore, name, file);
}

Outcome WatchFile(const Watch& watch, const std::string& name, FileId file) {
  return ChangeMark(watch, FAN_MARK_ADD, name, file);
}

Outcome UnwatchFile(const Watch& watch, const std::string& name, FileId file) {
  return ChangeMark(watch, FAN_MARK_REMOVE, name, file);
}

Outcome ClearAllIgnoreMarks(const Watch& watch) {
  if (fanotify_mark(watch.group.get(), FAN_MARK_FLUSH, 0, AT_FDCWD, nullptr) == 0) return {};
  return ErrnoError("take off all ignore marks");
}

Result<Descriptor> OpenIfSame(int directory, const std::string& name, FileId file) {
  Descriptor opened(openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!opened.valid()) return ErrnoError("open " + name + " in the store");
  Result<FileId> found = IdOf(opened.get());
  if (!found.ok()) return found.error();
  if (found.value() != file)
    return Error{ESTALE, name + " in the store is another file than the guarded one"};
  return opened;
}

}  // namespace sluice::keeper
