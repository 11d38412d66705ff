#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"

namespace sluice::index {

// The system calls by which the store changes blob files: the seam where tests inject a failing disk. Each
// method is the system call in its comment, with its results and its errno.
//
// Thread-safe.
class StoreFileSystem {
 public:
  static constexpr char kFreshSuffix[] = ".new";

  virtual ~StoreFileSystem() = default;

  // openat(2) with O_CLOEXEC | O_NOFOLLOW added; a new file gets mode 0640.
  virtual int Open(int directory, const std::string& name, int flags);
  virtual ssize_t Pread(int fd, void* bytes, size_t size, off_t offset);
  virtual ssize_t Pwrite(int fd, const void* bytes, size_t size, off_t offset);
  // fallocate(2) with FALLOC_FL_KEEP_SIZE: makes a lack of space known before any byte is written.
  virtual int Reserve(int fd, off_t offset, off_t size);
  virtual int Truncate(int fd, off_t size);  // ftruncate(2)
  virtual int SyncData(int fd);              // fdatasync(2)
  // ioctl_ficlone(2): `to` has the bytes of `from`, and shares its room on disk until one is written to.
  virtual int Clone(int to, int from);
  virtual int SyncDirectory(int directory);                    // fsync(2)
  virtual int Unlink(int directory, const std::string& name);  // unlinkat(2)
  // Gives the file of that name these contents, all or none of them whatever happens, and synced; a crash may
  // leave a file of that name with kFreshSuffix. As a system call: -1 and errno, or 0.
  virtual int ReplaceFile(int directory, const std::string& name, std::span<const std::byte> contents);
  // fsetxattr(2) and fgetxattr(2) of FileIdentity::kMarkName.
  virtual int SetMark(int fd, std::span<const uint8_t> mark);
  virtual ssize_t GetMark(int fd, std::span<uint8_t> mark);

  // The real one. Has no state.
  static StoreFileSystem& Real();
};

// Fills `bytes` from the file's byte `offset` on. Errors: DataLoss (the file ends before that, or can't be
// read).
absl::Status ReadFully(StoreFileSystem& file_system, int fd, uint64_t offset, std::span<std::byte> bytes);
// Writes all of `bytes` at `offset`. Errors: those of WriteError.
absl::Status WriteFully(StoreFileSystem& file_system, int fd, uint64_t offset,
                        std::span<const std::byte> bytes);

}  // namespace sluice::index
