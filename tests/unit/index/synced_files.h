#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "index/file_descriptor.h"

namespace sluice::index {

// What of this process's files a crash of the machine would leave: of each file the bytes that it had when it
// was last synced, and nothing of one that never was. Files that only grow, as RocksDB's do.
//
// The page cache hides this from who just reads the files, so the program's calls of fsync and fdatasync,
// those of its libraries too, come by here (see the end of this file). Thread-safe.
class SyncedFiles {
 public:
  static SyncedFiles& Instance() {
    static SyncedFiles* const instance = new SyncedFiles;
    return *instance;
  }

  // What `fd` has now will be on disk when the sync that follows succeeds.
  void Sync(int fd) {
    const Seen seen = Look(fd);
    if (!seen.regular) return;
    std::lock_guard lock(mutex_);
    sizes_[seen.identity] = seen.size;
  }

  // Makes `to` what a crash would leave of the files in the directory `from`.
  void CopyDirectory(const std::string& from, const std::string& to) {
    std::filesystem::create_directory(to);
    for (const auto& file : std::filesystem::directory_iterator(from)) {
      const FileDescriptor fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
      if (!fd.valid()) continue;  // RocksDB removed it just now
      const Seen seen = Look(fd.get());
      std::vector<char> bytes(SyncedSize(seen));
      if (!seen.regular || bytes.empty()) continue;
      const ssize_t got = ::pread(fd.get(), bytes.data(), bytes.size(), 0);
      std::ofstream(to + "/" + file.path().filename().string(), std::ios::binary)
          .write(bytes.data(), got < 0 ? 0 : got);
    }
  }

 private:
  // A new file may get the inode of a removed one; its birth tells them apart.
  using Identity = std::tuple<uint64_t, uint64_t, int64_t, uint32_t>;
  struct Seen {
    bool regular = false;
    Identity identity;
    uint64_t size = 0;
  };

  static Seen Look(int fd) {
    struct statx stat {};
    if (::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &stat) != 0) return {};
    const uint64_t device = uint64_t{stat.stx_dev_major} << 32 | stat.stx_dev_minor;
    return {S_ISREG(stat.stx_mode),
            {device, stat.stx_ino, stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec},
            stat.stx_size};
  }

  uint64_t SyncedSize(const Seen& seen) {
    std::lock_guard lock(mutex_);
    const auto found = sizes_.find(seen.identity);
    return found == sizes_.end() ? 0 : found->second;
  }

  std::mutex mutex_;
  std::map<Identity, uint64_t> sizes_;  // guarded by mutex_
};

}  // namespace sluice::index

// They take the place of the C library's for the whole program: include this file in one source file only.
extern "C" int fsync(int fd) {
  sluice::index::SyncedFiles::Instance().Sync(fd);
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

extern "C" int fdatasync(int fd) {
  sluice::index::SyncedFiles::Instance().Sync(fd);
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}
