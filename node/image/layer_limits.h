#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/status/status.h"

namespace sluice {

// What the layers of an image may hold, so that a small one can't fill a disk.
struct LayerLimits {
  // A layer may unpack to this many times the size that its descriptor names, but to `free_bytes` in any
  // case, and to its own size. Holes cost nothing.
  uint64_t ratio_max = 200;
  uint64_t free_bytes = uint64_t{1} << 30;
  // Of the files of all layers together, holes counted: a log that is indexed by user may have a terabyte of
  // them. The bootstrap takes at most 8 bytes for each 64 KiB, a quarter of a gigabyte then.
  uint64_t bytes_max = uint64_t{2} << 40;
  uint64_t entries_max = 8 << 20;      // of all layers together
  uint64_t xattr_bytes_max = 1 << 20;  // names and values, of one file

  // Of the archive in a layer of `layer_bytes`.
  uint64_t UnpackedBytesMax(uint64_t layer_bytes) const {
    constexpr uint64_t kAll = std::numeric_limits<uint64_t>::max();
    const uint64_t allowed =
        ratio_max != 0 && layer_bytes > kAll / ratio_max ? kAll : layer_bytes * ratio_max;
    return std::max({free_bytes, allowed, layer_bytes});
  }
};

// What the layers of one image that were read so far held.
struct LayerUsage {
  uint64_t bytes = 0;  // of files, holes counted
  uint64_t entries = 0;

  // Counts one more entry, whose file has `size` bytes. Errors: ResourceExhausted (over a limit; which).
  absl::Status Add(uint64_t size, const LayerLimits& limits);
};

}  // namespace sluice
