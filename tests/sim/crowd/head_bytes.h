#pragma once

#include <cstdint>

namespace sluice::sim {

// At most so many bytes are the heads of answers to members that ask for chunks, without the names of
// helpers. (home_blobs_test holds the server to it.)
inline constexpr uint64_t kServedBytes = 300;
inline constexpr uint64_t kBusyBytes = 130;
inline constexpr uint64_t kAbsentBytes = 80;

}  // namespace sluice::sim
