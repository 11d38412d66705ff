#include "ondemand/keeper/cachefiles/kernel_copies.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>

#include "ondemand/keeper/descriptor.h"

namespace sluice::keeper {
namespace {

constexpr char kVolumePrefix[] = "I";
constexpr char kTextKeyPrefix[] = "D";
constexpr int kFans = 256;
// Source: fs/cachefiles/xattr.c, cachefiles_xattr_cache.
constexpr char kKernelsAttribute[] = "user.CacheFiles.cache";

struct CopyMark {
  uint64_t inode = 0;
  int64_t birth_ns = 0;  // since 1970; 0: the file system has none

  bool operator==(const CopyMark&) const = default;
};

std::string VolumePath(const std::string& volume) {
  return kVolumePrefix + std::string(kErofsVolumePrefix) + volume;
}

std::set<std::string> NamesIn(int parent, const std::string& name) {
  std::set<std::string> names;
  const int directory = openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (directory < 0) return names;
  DIR* list = fdopendir(directory);
  if (list == nullptr) {
    close(directory);
    return names;
  }
  while (const dirent* entry = readdir(list)) {
    if (entry->d_name[0] != '.') names.emplace(entry->d_name);
  }
  closedir(list);
  return names;
}

Result<CopyMark> MarkOf(int file) {
  struct statx status {};
  if (statx(file, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) != 0) return ErrnoError("statx");
  CopyMark mark{status.stx_ino, 0};
  if ((status.stx_mask & STATX_BTIME) != 0)
    mark.birth_ns = status.stx_btime.tv_sec * int64_t{1'000'000'000} + status.stx_btime.tv_nsec;
  return mark;
}

// Which of the fans has a file follows from a hash of the kernel's own, that need not stay as it is.
Result<Descriptor> OpenCopy(int volume, const std::string& name, std::string* path) {
  for (int fan = 0; fan < kFans; ++fan) {
    char prefix[sizeof("@00/")];
    std::snprintf(prefix, sizeof(prefix), "@%02x/", static_cast<unsigned>(fan));
    *path = prefix + name;
    Descriptor file(openat(volume, path->c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (file.valid()) return file;
    if (errno != ENOENT) return ErrnoError("open");
  }
  return Descriptor();
}

// The order: a mark says that the file was empty when it was made. File systems keep it over a crash, as both
// are changes of the inode.
Outcome Empty(int file, const CopyMark& mark) {
  struct stat status {};
  if (fstat(file, &status) != 0) return ErrnoError("stat");
  if (status.st_size > 0 &&
      fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, status.st_size) != 0)
    return ErrnoError("empty");
  if (fsetxattr(file, kCopyMarkName, &mark, sizeof(mark), 0) != 0) return ErrnoError("mark");
  return {};
}

}  // namespace

std::string CopyFileName(const std::string& cookie) {
  return kTextKeyPrefix + cookie;
}

// They lie in 256 directories.
std::set<std::string> FilesOfVolume(int cache, const std::string& volume) {
  const std::string path = VolumePath(volume);
  std::set<std::string> files;
  for (const std::string& fan : NamesIn(cache, path)) files.merge(NamesIn(cache, path + "/" + fan));
  return files;
}

size_t MendVolumes(int cache) {
  // Source: struct cachefiles_vol_xattr, and EROFS, which has nothing to be kept coherent by.
  constexpr uint32_t kVolumeAttribute = 0;
  size_t mended = 0;
  for (const std::string& name : NamesIn(cache, ".")) {
    if (!name.starts_with(VolumePath(""))) continue;
    const Descriptor volume(openat(cache, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!volume.valid() || fgetxattr(volume.get(), kKernelsAttribute, nullptr, 0) >= 0 || errno != ENODATA)
      continue;
    if (fsetxattr(volume.get(), kKernelsAttribute, &kVolumeAttribute, sizeof(kVolumeAttribute), 0) == 0)
      ++mended;
  }
  return mended;
}

Result<CopyFound> ProveCopy(int cache, const std::string& volume, const std::string& cookie) {
  const Descriptor files(
      openat(cache, VolumePath(volume).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!files.valid() && errno == ENOENT) return CopyFound::kNone;
  if (!files.valid()) return ErrnoError("open the volume " + volume);
  const std::string what = "the kernel's copy of " + cookie + ": ";
  std::string path;
  Result<Descriptor> file = OpenCopy(files.get(), CopyFileName(cookie), &path);
  if (!file.ok()) return Error{file.error().code, what + file.error().text};
  if (!file.value().valid()) return CopyFound::kNone;
  const int fd = file.value().get();

  if (fgetxattr(fd, kKernelsAttribute, nullptr, 0) < 0 && errno == ENODATA) {
    // Of what it has open already the kernel takes a wrong attribute for stale, and a missing one for a
    // failure.
    if (fsetxattr(fd, kKernelsAttribute, "", 1, 0) != 0) return ErrnoError(what + "make stale");
    if (unlinkat(files.get(), path.c_str(), 0) == 0 || errno == ENOENT) return CopyFound::kNone;
    return ErrnoError(what + "remove");
  }
  const Result<CopyMark> own = MarkOf(fd);
  if (!own.ok()) return Error{own.error().code, what + own.error().text};
  CopyMark mark;
  const ssize_t length = fgetxattr(fd, kCopyMarkName, &mark, sizeof(mark));
  if (length == static_cast<ssize_t>(sizeof(mark)) && own.value().birth_ns != 0 && mark == own.value())
    return CopyFound::kProven;
  const bool marked = length >= 0 || errno != ENODATA;
  if (Outcome emptied = Empty(fd, own.value()); !emptied.ok())
    return Error{emptied.error().code, what + emptied.error().text};
  return marked ? CopyFound::kForeign : CopyFound::kNew;
}

}  // namespace sluice::keeper
