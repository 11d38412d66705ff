#include "ondemand/keeper/fuse/fuse_replier.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>

#include "ondemand/keeper/fuse/fuse_mount.h"

namespace sluice::keeper {
namespace {

constexpr uint32_t kPageBytes = 4096;
// Shorter ones are copied: that is two system calls instead of four.
constexpr uint32_t kSpliceBytesMin = 32 << 10;
constexpr int kPipeBytes = 1 << 20;
alignas(kPageBytes) const std::byte kZeros[kPageBytes] = {};

fuse_out_header HeaderOf(uint64_t unique, size_t payload, int error = 0) {
  fuse_out_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + payload);
  header.error = -error;
  header.unique = unique;
  return header;
}

bool WriteAll(int fd, const void* bytes, size_t size) {
  return write(fd, bytes, size) == static_cast<ssize_t>(size);
}

}  // namespace

bool FuseReplier::Error(uint64_t unique, int error) {
  const fuse_out_header header = HeaderOf(unique, 0, error);
  return WriteAll(device_, &header, sizeof(header)) || errno == ENOENT;
}

bool FuseReplier::Data(uint64_t unique, std::span<const std::byte> data) {
  fuse_out_header header = HeaderOf(unique, data.size());
  const iovec parts[2] = {{&header, sizeof(header)}, {const_cast<std::byte*>(data.data()), data.size()}};
  return writev(device_, parts, 2) >= 0 || errno == ENOENT;
}

bool FuseReplier::File(uint64_t unique, int file, uint64_t offset, uint32_t length, uint32_t padding) {
  if (length < kSpliceBytesMin || !HavePipe()) return Copy(unique, file, offset, length, padding);
  return Splice(unique, file, offset, length, padding);
}

bool FuseReplier::Copy(uint64_t unique, int file, uint64_t offset, uint32_t length, uint32_t padding) {
  if (buffer_ == nullptr) buffer_.reset(new std::byte[kFuseReadBytesMax]);
  for (uint32_t done = 0; done < length;) {
    const ssize_t count = pread(file, buffer_.get() + done, length - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Error(unique, EIO);
    done += static_cast<uint32_t>(count);
  }
  std::memset(buffer_.get() + length, 0, padding);
  return Data(unique, {buffer_.get(), length + padding});
}

bool FuseReplier::HavePipe() {
  if (pipe_out_.valid()) return true;
  int ends[2];
  if (pipes_fail_ || pipe2(ends, O_CLOEXEC) != 0) return false;
  pipe_out_.reset(ends[0]);
  pipe_in_.reset(ends[1]);
  if (fcntl(pipe_in_.get(), F_SETPIPE_SZ, kPipeBytes) >= kPipeBytes) return true;
  // The user's pipes have taken all that it may have.
  pipes_fail_ = true;
  pipe_out_.reset();
  pipe_in_.reset();
  return false;
}

// A pipe that did not empty is not used again.
bool FuseReplier::Splice(uint64_t unique, int file, uint64_t offset, uint32_t length, uint32_t padding) {
  const fuse_out_header header = HeaderOf(unique, size_t{length} + padding);
  bool filled = WriteAll(pipe_in_.get(), &header, sizeof(header));
  auto from = static_cast<loff_t>(offset);
  for (uint32_t done = 0; filled && done < length;) {
    const ssize_t count = splice(file, &from, pipe_in_.get(), nullptr, length - done, SPLICE_F_MOVE);
    if (count < 0 && errno == EINTR) continue;
    filled = count > 0;
    done += static_cast<uint32_t>(count > 0 ? count : 0);
  }
  if (filled && padding > 0) filled = WriteAll(pipe_in_.get(), kZeros, padding);
  const ssize_t sent =
      filled ? splice(pipe_out_.get(), nullptr, device_, nullptr, header.len, SPLICE_F_MOVE) : -1;
  if (sent == static_cast<ssize_t>(header.len)) return true;
  const int error = errno;
  pipe_out_.reset();
  pipe_in_.reset();
  if (filled && error == ENOENT) return true;
  // The kernel took none of it, and the request still waits.
  return Copy(unique, file, offset, length, padding);
}

bool IsCached(int file, uint64_t offset, uint64_t length) {
  char byte = 0;
  const iovec part{&byte, 1};
  for (const uint64_t at : {offset, offset + length - 1}) {
    if (preadv2(file, &part, 1, static_cast<off_t>(at), RWF_NOWAIT) < 0 && errno == EAGAIN) return false;
  }
  return true;
}

}  // namespace sluice::keeper
