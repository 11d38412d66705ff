#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace sluice {

// Bytes that come one after another. One thread at a time.
class ByteStream {
 public:
  virtual ~ByteStream() = default;

  // Some of the next bytes, at most as many as the buffer takes; 0 only at the end, and then always. Errors
  // are those of what is below, and are not to be read over.
  // REQUIRES: the buffer is not empty.
  virtual absl::StatusOr<size_t> Read(std::span<std::byte> buffer) = 0;
};

// A file from its first byte to its last, whatever the descriptor's own position is.
class FileStream final : public ByteStream {
 public:
  // `fd` is not owned, and open as long as this is read.
  explicit FileStream(int fd) : fd_(fd) {}

  // Errors: those of pread(2).
  absl::StatusOr<size_t> Read(std::span<std::byte> buffer) override;

 private:
  const int fd_;
  uint64_t offset_ = 0;
};

// Reads until the buffer is full or the stream ends; the number of bytes. Errors: the stream's.
absl::StatusOr<size_t> ReadFully(ByteStream& stream, std::span<std::byte> buffer);

}  // namespace sluice
