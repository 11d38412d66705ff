#include "index/blob_fd_cache.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"

namespace sluice::index {
namespace {

size_t Bounded(size_t capacity) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    capacity = std::min<size_t>(capacity, limit.rlim_cur / 4);
  }
  return std::max<size_t>(capacity, 1);
}

// A file that was unlinked or replaced must not be written to in the place of the one that has its name.
bool Is(int fd, const FileIdentity& file) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && status.st_nlink > 0 && status.st_ino == file.inode;
}

}  // namespace

BlobFdCache::BlobFdCache(int directory, StoreFileSystem& file_system, size_t capacity)
    : directory_(directory), file_system_(file_system), capacity_(Bounded(capacity)) {}

absl::StatusOr<BlobFdCache::Fd> BlobFdCache::Get(const BlobKey& id, const FileIdentity& file) {
  Fd dead;  // closed after the lock is let go
  {
    std::lock_guard lock(mutex_);
    if (const auto found = slots_.find(id); found != slots_.end()) {
      if (Is(found->second->fd->get(), file)) {
        by_use_.splice(by_use_.begin(), by_use_, found->second);
        return found->second->fd;
      }
      dead = std::move(found->second->fd);
      by_use_.erase(found->second);
      slots_.erase(found);
    }
  }
  const std::string what = absl::StrCat("open the file of ", id.ToString());
  const int opened = file_system_.Open(directory_, id.FileName(), O_RDWR);
  if (opened < 0) {
    const absl::Status error = DiskError(errno, what);
    return absl::IsNotFound(error) ? error : absl::UnavailableError(error.message());
  }
  Fd fd = std::make_shared<const FileDescriptor>(opened);
  if (!Is(opened, file)) return absl::NotFoundError(absl::StrCat(what, ": another file has its name"));
  Fd unused;  // closed after the lock is let go
  std::lock_guard lock(mutex_);
  const auto [slot, inserted] = slots_.try_emplace(id);
  if (!inserted) return fd;
  by_use_.push_front(Slot{id, fd});
  slot->second = by_use_.begin();
  if (by_use_.size() > capacity_) {
    unused = std::move(by_use_.back().fd);
    slots_.erase(by_use_.back().id);
    by_use_.pop_back();
  }
  return fd;
}

void BlobFdCache::Drop(const BlobKey& id) {
  Fd unused;
  std::lock_guard lock(mutex_);
  const auto found = slots_.find(id);
  if (found == slots_.end()) return;
  unused = std::move(found->second->fd);
  by_use_.erase(found->second);
  slots_.erase(found);
}

}  // namespace sluice::index
