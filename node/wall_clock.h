#pragma once

#include <chrono>
#include <cstdint>

namespace sluice {

// Milliseconds since 1970 by the system's clock, which anybody may set: for what is to hold over restarts.
inline int64_t SystemWallClockMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace sluice
