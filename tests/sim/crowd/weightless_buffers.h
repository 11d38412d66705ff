#pragma once

#include <cstddef>
#include <span>

namespace sluice::sim {

inline constexpr size_t kWeightlessMax = 4 << 20;  // of one chunk

// Where all buffers of a program lie that is linked with weightless_buffers.cc: arrays of bytes from 16 KiB
// on. What is copied from here into a buffer is copied onto itself.
std::span<const std::byte> WeightlessBytes();

}  // namespace sluice::sim
