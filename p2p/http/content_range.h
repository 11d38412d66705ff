#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "node/geometry.h"

namespace sluice::p2p {

// Digits and nothing else.
std::optional<uint64_t> ParseNumber(std::string_view text);

// "bytes <first>-<last>/<total>". Source: RFC 9110 section 14.4.
struct ContentRange {
  ByteRange range;
  uint64_t total = 0;
};
std::optional<ContentRange> ParseContentRange(std::string_view text);

}  // namespace sluice::p2p
