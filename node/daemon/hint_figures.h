#pragma once

#include <array>

#include "node/chunk_source.h"
#include "node/telemetry.h"

namespace sluice {

// What became of the bytes that one hint asked for and that were absent when it learned of them. Thread-safe.
struct HintFigures {
  std::array<Counter, kSourceKindCount> come_bytes;  // by where from; kLocal: not over the wire
  Counter used_bytes;                                // as HintPrecision says, like the next
  Counter unread_bytes;
};

}  // namespace sluice
