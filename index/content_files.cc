#include "index/content_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

constexpr unsigned kStatMask = STATX_TYPE | STATX_INO | STATX_SIZE | STATX_BTIME | STATX_CTIME;

absl::Status ReadError(int error, const std::string& what) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
      return absl::NotFoundError(absl::StrCat(what, ": it is not there"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(
          absl::StrCat(what, ": this process may not; containerd's content is root's to read"));
    default:
      return absl::UnavailableError(std::string(absl::ErrnoToStatus(error, what).message()));
  }
}

int64_t NanosOf(const struct statx_timestamp& time) {
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

// Nothing if it is no regular file.
std::optional<FileIdentity> IdentityOf(const struct statx& status) {
  if (!S_ISREG(status.stx_mode)) return std::nullopt;
  FileIdentity file;
  file.inode = status.stx_ino;
  if (status.stx_mask & STATX_BTIME) file.birth_ns = NanosOf(status.stx_btime);
  file.changed_ns = NanosOf(status.stx_ctime);
  if (!file.is_in_place()) return std::nullopt;  // of the first moment of 1970: nothing could be told from it
  return file;
}

}  // namespace

absl::StatusOr<ContentFiles::Found> ContentFiles::Open(const Digest& digest) const {
  const std::string path = PathOf(digest);
  const std::string what = absl::StrCat("open ", path);
  if (blobs_.empty()) return absl::NotFoundError("store.importContainerd is off");
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd.valid()) return ReadError(errno, what);
  struct statx status {};
  if (::statx(fd.get(), "", AT_EMPTY_PATH, kStatMask, &status) != 0) return ReadError(errno, what);
  const std::optional<FileIdentity> file = IdentityOf(status);
  if (!file) return absl::NotFoundError(absl::StrCat(what, ": it is no regular file"));
  return Found{std::move(fd), *file, status.stx_size};
}

bool ContentFiles::Holds(const Digest& digest, const FileIdentity& file, uint64_t size) const {
  struct statx status {};
  return !blobs_.empty() &&
         ::statx(AT_FDCWD, PathOf(digest).c_str(), AT_SYMLINK_NOFOLLOW, kStatMask, &status) == 0 &&
         status.stx_size == size && IdentityOf(status) == file;
}

absl::StatusOr<std::vector<Digest>> ContentFiles::List() const {
  const std::string what = absl::StrCat("list ", blobs_);
  if (blobs_.empty()) return absl::NotFoundError("store.importContainerd is off");
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(blobs_.c_str()), &::closedir);
  if (!folder) return ReadError(errno, what);
  std::vector<Digest> digests;
  errno = 0;
  while (digests.size() < kFilesMax) {
    const dirent* const entry = ::readdir(folder.get());
    if (entry == nullptr) break;
    const absl::StatusOr<Digest> digest = Digest::ParseHex(entry->d_name);
    if (digest.ok()) digests.push_back(*digest);
    errno = 0;
  }
  if (errno != 0) return ReadError(errno, what);
  return digests;
}

}  // namespace sluice::index
