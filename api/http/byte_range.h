#pragma once

#include <cstdint>
#include <string_view>
#include <variant>

#include "node/geometry.h"

namespace sluice::api {

// What a Range header asks for of a representation.
struct WholeRange {};          // no range, or in a unit that is none of ours: all of it
struct UnsatisfiableRange {};  // 416: past the end, malformed, or several ranges at once
using RequestedRange = std::variant<WholeRange, ByteRange, UnsatisfiableRange>;

// Reads a Range header's value ("" if there is none) for a representation of `size` bytes. A range that goes
// beyond the end is cut to it. A server may reject more ranges than one; we do. Source: RFC 9110 sections
// 14.1.2 and 14.2. REQUIRES: size > 0
RequestedRange ParseRange(std::string_view header, uint64_t size);

}  // namespace sluice::api
