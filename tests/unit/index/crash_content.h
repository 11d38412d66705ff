#pragma once

#include <openssl/sha.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "node/blob.h"

namespace sluice::index {

// What index_crash_writer writes and index_crash_test expects.
inline constexpr uint32_t kCrashBlobs = 3;
inline constexpr uint32_t kCrashChunks = 48;

inline std::vector<std::byte> CrashContent(uint32_t blob, ChunkIndex index) {
  std::vector<std::byte> bytes(kChunkSizeMin);
  uint32_t state = blob * 1000 + index.value() + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

inline BlobSpec CrashSpec(uint32_t blob) {
  std::vector<std::byte> whole;
  for (uint32_t i = 0; i < kCrashChunks; ++i) {
    const std::vector<std::byte> chunk = CrashContent(blob, ChunkIndex(i));
    whole.insert(whole.end(), chunk.begin(), chunk.end());
  }
  std::array<uint8_t, Digest::kBytes> hash{};
  SHA256(reinterpret_cast<const uint8_t*>(whole.data()), whole.size(), hash.data());
  return {Digest(hash), whole.size(), kChunkSizeMin, std::nullopt, {}};
}

}  // namespace sluice::index
