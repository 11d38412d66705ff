#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "node/blob.h"

namespace sluice::index {

// What index_crash_writer writes and index_crash_test expects.
inline constexpr uint32_t kCrashBlobs = 3;
inline constexpr uint32_t kCrashChunks = 48;

inline BlobSpec CrashSpec(uint32_t blob) {
  std::array<uint8_t, Digest::kBytes> bytes{};
  bytes.fill(static_cast<uint8_t>(blob + 1));
  return {Digest(bytes), uint64_t{kCrashChunks} * kChunkSizeMin, kChunkSizeMin, std::nullopt, {}};
}

inline std::vector<std::byte> CrashContent(uint32_t blob, ChunkIndex index) {
  std::vector<std::byte> bytes(kChunkSizeMin);
  uint32_t state = blob * 1000 + index.value() + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

}  // namespace sluice::index
