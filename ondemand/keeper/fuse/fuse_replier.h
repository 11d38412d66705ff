#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/result.h"

namespace sluice::keeper {

// Writes replies to a FUSE connection. One thread; each that replies has its own.
// Source: include/uapi/linux/fuse.h, struct fuse_out_header.
class FuseReplier {
 public:
  // The device outlives it.
  explicit FuseReplier(int device) : device_(device) {}

  // All return whether the kernel took the reply, or does not want it any more because the reader was killed.
  bool Error(uint64_t unique, int error);
  bool Data(uint64_t unique, std::span<const std::byte> data);
  template <typename T>
  bool Struct(uint64_t unique, const T& pod) {
    return Data(unique, std::as_bytes(std::span<const T, 1>(&pod, 1)));
  }
  // `length` bytes of the file, then `padding` zeros; an error if the file does not have them. Moves the page
  // cache's pages where that is cheaper than copying. REQUIRES: both together at most kFuseReadBytesMax,
  // padding less than a page
  bool File(uint64_t unique, int file, uint64_t offset, uint32_t length, uint32_t padding);

 private:
  bool Copy(uint64_t unique, int file, uint64_t offset, uint32_t length, uint32_t padding);
  bool Splice(uint64_t unique, int file, uint64_t offset, uint32_t length, uint32_t padding);
  bool HavePipe();

  const int device_;
  Descriptor pipe_out_;
  Descriptor pipe_in_;
  bool pipes_fail_ = false;
  std::unique_ptr<std::byte[]> buffer_;
};

// Whether the range is likely to be read without waiting for the disk.
bool IsCached(int file, uint64_t offset, uint64_t length);

}  // namespace sluice::keeper
