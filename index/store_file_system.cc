#include "index/store_file_system.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"

namespace sluice::index {
namespace {

constexpr mode_t kFileMode = 0640;

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

int StoreFileSystem::SyncDirectory(int directory) {
  return ::fsync(directory);
}

int StoreFileSystem::Unlink(int directory, const std::string& name) {
  return ::unlinkat(directory, name.c_str(), 0);
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

}  // namespace sluice::index
