#include "node/image/byte_stream.h"

#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"

namespace sluice {

absl::StatusOr<size_t> FileStream::Read(std::span<std::byte> buffer) {
  while (true) {
    const ssize_t n = pread(fd_, buffer.data(), buffer.size(), static_cast<off_t>(offset_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, "the file can't be read");
    offset_ += static_cast<uint64_t>(n);
    return static_cast<size_t>(n);
  }
}

absl::StatusOr<size_t> ReadFully(ByteStream& stream, std::span<std::byte> buffer) {
  size_t done = 0;
  while (done < buffer.size()) {
    absl::StatusOr<size_t> n = stream.Read(buffer.subspan(done));
    if (!n.ok()) return n.status();
    if (*n == 0) break;
    done += *n;
  }
  return done;
}

}  // namespace sluice
