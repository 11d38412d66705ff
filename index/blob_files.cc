#include "index/blob_files.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"

namespace sluice::index {
namespace {

constexpr uint64_t kStatBlockBytes = 512;  // unit of stx_blocks, statx(2)
constexpr unsigned kStatMask = STATX_TYPE | STATX_INO | STATX_SIZE | STATX_BLOCKS | STATX_BTIME | STATX_NLINK;

int64_t BirthOf(const struct statx& status) {
  if (!(status.stx_mask & STATX_BTIME)) return 0;
  return status.stx_btime.tv_sec * 1'000'000'000 + status.stx_btime.tv_nsec;
}

bool StatFile(int fd, struct statx* status) {
  return ::statx(fd, "", AT_EMPTY_PATH, kStatMask, status) == 0;
}

bool StatName(int directory, const BlobKey& id, struct statx* status) {
  return ::statx(directory, id.FileName().c_str(), AT_SYMLINK_NOFOLLOW, kStatMask, status) == 0;
}

// By all that statx tells: the mark is not looked at.
bool Matches(const struct statx& status, const FileIdentity& file, uint64_t size) {
  return S_ISREG(status.stx_mode) && status.stx_ino == file.inode && BirthOf(status) == file.birth_ns &&
         status.stx_size >= size;
}

bool SameInode(const struct statx& a, const struct statx& b) {
  return a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major && a.stx_dev_minor == b.stx_dev_minor;
}

std::string WhatOf(const BlobKey& id, uint64_t size) {
  return absl::StrCat("make the file of ", id.ToString(), " (", size, " bytes)");
}

}  // namespace

BlobFiles::BlobFiles(const DataDir& data_dir, StoreFileSystem& file_system, const ContentFiles& content,
                     size_t open_files_max)
    : data_dir_(data_dir),
      file_system_(file_system),
      content_(content),
      fds_(data_dir.blobs_fd(), file_system, open_files_max) {}

absl::StatusOr<FileIdentity> BlobFiles::Make(const BlobKey& id, uint64_t size) {
  // A new file, for what is left of the old one would take up room, and somebody may have it open.
  if (file_system_.Unlink(data_dir_.blobs_fd(), id.FileName()) != 0 && errno != ENOENT) {
    return WriteError(errno, absl::StrCat(WhatOf(id, size), ": remove what has its name"));
  }
  fds_.Drop(id);
  return Prepare(id, size, O_EXCL);
}

absl::StatusOr<FileIdentity> BlobFiles::TakeOver(const BlobKey& id, uint64_t size) {
  return Prepare(id, size, 0);
}

absl::StatusOr<FileIdentity> BlobFiles::Prepare(const BlobKey& id, uint64_t size, int flags) {
  const std::string what = WhatOf(id, size);
  const FileDescriptor fd(
      file_system_.Open(data_dir_.blobs_fd(), id.FileName(), O_RDWR | O_CREAT | O_NONBLOCK | flags));
  if (!fd.valid()) return WriteError(errno, what);
  struct statx status {};
  if (!StatFile(fd.get(), &status)) return WriteError(errno, what);
  if (!S_ISREG(status.stx_mode)) {
    return absl::UnavailableError(absl::StrCat(what, ": something else has its name"));
  }
  // The mark goes first, so that the sync of what is written later covers it.
  absl::StatusOr<FileIdentity> file = Identify(fd.get());
  if (file.ok() && status.stx_size != size &&
      file_system_.Truncate(fd.get(), static_cast<off_t>(size)) != 0) {
    file = WriteError(errno, "set its size");
  }
  if (!file.ok()) {
    if (status.stx_size == 0) file_system_.Unlink(data_dir_.blobs_fd(), id.FileName());
    return absl::Status(file.status().code(), absl::StrCat(what, ": ", file.status().message()));
  }
  names_changed_ = true;
  return file;
}

absl::StatusOr<FileIdentity> BlobFiles::Identify(int fd) {
  absl::StatusOr<FileIdentity::Mark> mark = SetNewMark(fd);
  if (!mark.ok()) return mark.status();
  struct statx status {};
  if (!StatFile(fd, &status)) return WriteError(errno, "inspect it");
  return FileIdentity{status.stx_ino, BirthOf(status), *mark};
}

absl::StatusOr<FileIdentity::Mark> BlobFiles::SetNewMark(int fd) {
  FileIdentity::Mark mark{};
  if (RAND_bytes(mark.data(), static_cast<int>(mark.size())) != 1) {
    return absl::UnavailableError("no random number for its mark: OpenSSL refused");
  }
  if (file_system_.SetMark(fd, mark) == 0) return mark;
  // A file system that keeps no such attribute, or none for us.
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EPERM || errno == EACCES)
    return FileIdentity::Mark{};
  return WriteError(errno, "set its mark");
}

absl::StatusOr<FileIdentity> BlobFiles::Clone(const BlobKey& id, uint64_t size, int from) {
  absl::StatusOr<FileIdentity> file = Make(id, size);
  if (!file.ok()) return file;
  absl::Status cloned;
  if (absl::StatusOr<BlobFdCache::Fd> to = fds_.Get(id, *file); !to.ok()) {
    cloned = to.status();
  } else if (file_system_.Clone((*to)->get(), from) != 0) {
    const bool is_refused = errno == EOPNOTSUPP || errno == ENOTTY || errno == EXDEV || errno == EINVAL ||
                            errno == ENOSYS || errno == EPERM || errno == EACCES || errno == EBADF;
    cloned = is_refused ? absl::UnimplementedError("the file system does not share room between files")
                        : WriteError(errno, WhatOf(id, size));
  } else if (file_system_.SyncData((*to)->get()) != 0) {
    cloned = WriteError(errno, WhatOf(id, size));
  }
  if (cloned.ok()) return file;
  Remove(id).IgnoreError();  // one that stays is no blob's, and goes when the store is opened
  return cloned;
}

absl::Status BlobFiles::Remove(const BlobKey& id) {
  const int removed = file_system_.Unlink(data_dir_.blobs_fd(), id.FileName());
  const int error = removed == 0 || errno == ENOENT ? 0 : errno;
  fds_.Drop(id);  // after the file: whoever opened it in between must not keep the dead one in the cache
  return error == 0 ? absl::OkStatus() : WriteError(error, absl::StrCat("remove ", data_dir_.BlobPath(id)));
}

absl::StatusOr<BlobFdCache::Fd> BlobFiles::OpenForWrite(const BlobKey& id, const FileIdentity& file) {
  if (file.is_in_place()) return absl::NotFoundError("it is read in place, and has no file of its own");
  return fds_.Get(id, file);
}

absl::StatusOr<FileDescriptor> BlobFiles::OpenForRead(const BlobKey& id, const FileIdentity& file,
                                                      uint64_t size) {
  if (file.is_in_place()) {
    absl::StatusOr<ContentFiles::Found> found = content_.Open(id.name());
    if (!found.ok()) return found.status();
    if (found->file == file && found->size == size) return std::move(found->fd);
    return absl::NotFoundError(absl::StrCat(content_.PathOf(id.name()), " was changed or replaced"));
  }
  const std::string what = absl::StrCat("open the file of ", id.ToString());
  FileDescriptor fd(file_system_.Open(data_dir_.blobs_fd(), id.FileName(), O_RDONLY | O_NONBLOCK));
  if (!fd.valid()) {
    const absl::Status error = DiskError(errno, what);
    return absl::IsNotFound(error) ? error : absl::UnavailableError(error.message());
  }
  struct statx status {};
  if (StatFile(fd.get(), &status) && Matches(status, file, size)) return fd;
  return absl::NotFoundError(absl::StrCat(what, ": another file has its name, or it was cut short"));
}

bool BlobFiles::IsFile(const BlobKey& id, const FileIdentity& file, uint64_t size, int fd) {
  if (file.is_in_place()) return false;
  struct statx open {};
  struct statx named {};
  if (!StatFile(fd, &open) || !Matches(open, file, size)) return false;
  if (!StatName(data_dir_.blobs_fd(), id, &named) || !SameInode(open, named)) return false;
  FileIdentity::Mark mark{};
  return file.mark == mark ||
         (file_system_.GetMark(fd, mark) == static_cast<ssize_t>(mark.size()) && mark == file.mark);
}

std::optional<uint64_t> BlobFiles::Find(const BlobKey& id, const FileIdentity& file, uint64_t size) {
  if (file.is_in_place())
    return content_.Holds(id.name(), file, size) ? std::optional<uint64_t>(0) : std::nullopt;
  if (!file.proves() || !HasName(id, file, size)) return std::nullopt;
  const FileDescriptor fd(file_system_.Open(data_dir_.blobs_fd(), id.FileName(), O_RDONLY | O_NONBLOCK));
  if (!fd.valid() || !IsFile(id, file, size, fd.get())) return std::nullopt;
  return AllocatedBytes(fd.get());
}

bool BlobFiles::HasName(const BlobKey& id, const FileIdentity& file, uint64_t size) {
  if (file.is_in_place()) return content_.Holds(id.name(), file, size);
  struct statx status {};
  return StatName(data_dir_.blobs_fd(), id, &status) && Matches(status, file, size);
}

absl::Status BlobFiles::SyncNames() {
  if (!names_changed_.exchange(false)) return absl::OkStatus();
  if (file_system_.SyncDirectory(data_dir_.blobs_fd()) == 0) return absl::OkStatus();
  names_changed_ = true;
  return WriteError(errno, absl::StrCat("sync ", data_dir_.blobs_path()));
}

uint64_t BlobFiles::AllocatedBytes(int fd) {
  struct statx status {};
  return StatFile(fd, &status) ? status.stx_blocks * kStatBlockBytes : 0;
}

}  // namespace sluice::index
