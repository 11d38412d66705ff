#include "node/image/file_bytes.h"

#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

constexpr size_t kReadBytes = 1 << 20;

absl::Status CantWrite(const std::string& path) {
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat(path, " can't be written",
                                                 error == ENOSPC || error == EDQUOT || error == EFBIG
                                                     ? " (set TMPDIR to where there is more room)"
                                                     : ""));
}

}  // namespace

absl::Status WriteAll(int file, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(file, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return CantWrite(path);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status ReadAll(int file, const std::string& path,
                     absl::FunctionRef<absl::Status(std::span<const std::byte>)> on_bytes) {
  std::vector<std::byte> buffer(kReadBytes);
  for (off_t offset = 0;;) {
    const ssize_t n = pread(file, buffer.data(), buffer.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be read"));
    if (n == 0) return absl::OkStatus();
    if (absl::Status taken = on_bytes({buffer.data(), static_cast<size_t>(n)}); !taken.ok()) return taken;
    offset += n;
  }
}

absl::Status ReadAt(int file, const std::string& path, uint64_t offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be read"));
    if (n == 0) return absl::DataLossError(absl::StrCat(path, " has fewer bytes than it had"));
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace sluice
