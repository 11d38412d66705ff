#include "index/store_file_system.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"
#include "index/file_descriptor.h"
#include "index/file_identity.h"

namespace sluice::index {
namespace {

constexpr mode_t kFileMode = 0640;

// Returns false, and errno, if not all of it is on disk.
bool WriteSynced(int directory, const std::string& name, std::span<const std::byte> contents) {
  const FileDescriptor fd(
      ::openat(directory, name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, kFileMode));
  if (!fd.valid()) return false;
  while (!contents.empty()) {
    const ssize_t count = ::write(fd.get(), contents.data(), contents.size());
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = EIO;
    if (count <= 0) return false;
    contents = contents.subspan(static_cast<size_t>(count));
  }
  return ::fsync(fd.get()) == 0;
}

}  // namespace

int StoreFileSystem::Open(int directory, const std::string& name, int flags) {
  return ::openat(directory, name.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, kFileMode);
}

ssize_t StoreFileSystem::Pread(int fd, void* bytes, size_t size, off_t offset) {
  return ::pread(fd, bytes, size, offset);
}

ssize_t StoreFileSystem::Pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  return ::pwrite(fd, bytes, size, offset);
}

int StoreFileSystem::Reserve(int fd, off_t offset, off_t size) {
  return ::fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size);
}

int StoreFileSystem::Truncate(int fd, off_t size) {
  return ::ftruncate(fd, size);
}

int StoreFileSystem::SyncData(int fd) {
  return ::fdatasync(fd);
}

int StoreFileSystem::Clone(int to, int from) {
  return ::ioctl(to, FICLONE, from);
}

int StoreFileSystem::SyncDirectory(int directory) {
  return ::fsync(directory);
}

int StoreFileSystem::Unlink(int directory, const std::string& name) {
  return ::unlinkat(directory, name.c_str(), 0);
}

int StoreFileSystem::ReplaceFile(int directory, const std::string& name,
                                 std::span<const std::byte> contents) {
  const std::string fresh = name + kFreshSuffix;
  if (WriteSynced(directory, fresh, contents) &&
      ::renameat(directory, fresh.c_str(), directory, name.c_str()) == 0 && ::fsync(directory) == 0) {
    return 0;
  }
  const int error = errno;
  ::unlinkat(directory, fresh.c_str(), 0);
  errno = error;
  return -1;
}

int StoreFileSystem::SetMark(int fd, std::span<const uint8_t> mark) {
  return ::fsetxattr(fd, FileIdentity::kMarkName, mark.data(), mark.size(), 0);
}

ssize_t StoreFileSystem::GetMark(int fd, std::span<uint8_t> mark) {
  return ::fgetxattr(fd, FileIdentity::kMarkName, mark.data(), mark.size());
}

StoreFileSystem& StoreFileSystem::Real() {
  static StoreFileSystem real;
  return real;
}

absl::Status ReadFully(StoreFileSystem& file_system, int fd, uint64_t offset, std::span<std::byte> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t got =
        file_system.Pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::DataLossError(WriteError(errno, "read").message());
    if (got == 0) return absl::DataLossError(absl::StrCat("the file ends at byte ", offset + done));
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status WriteFully(StoreFileSystem& file_system, int fd, uint64_t offset,
                        std::span<const std::byte> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count =
        file_system.Pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return WriteError(errno, "write");
    if (count == 0) return absl::UnavailableError("write: the file takes no more bytes");
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

}  // namespace sluice::index
