#include "p2p/registry/lenient_text.h"

#include <cstddef>
#include <cstdint>

namespace sluice::p2p {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr size_t kEscapeBytes = 6;  // "\uXXXX"

bool IsTrail(std::string_view text, size_t at) {
  return at < text.size() && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80;
}

// How many bytes the character has that begins here; 0 if none does. Source: Unicode standard, table 3-7.
size_t CharacterBytes(std::string_view text, size_t at) {
  const auto first = static_cast<uint8_t>(text[at]);
  if (first < 0x80) return 1;
  const uint8_t second = at + 1 < text.size() ? static_cast<uint8_t>(text[at + 1]) : 0;
  if (first >= 0xC2 && first <= 0xDF) return IsTrail(text, at + 1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool overlong = first == 0xE0 && second < 0xA0;
    const bool surrogate = first == 0xED && second > 0x9F;
    return IsTrail(text, at + 1) && IsTrail(text, at + 2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool overlong = first == 0xF0 && second < 0x90;
    const bool beyond = first == 0xF4 && second > 0x8F;
    const bool trails = IsTrail(text, at + 1) && IsTrail(text, at + 2) && IsTrail(text, at + 3);
    return trails && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

// The code unit of "\uXXXX" that begins here, -1 if none does.
int32_t EscapedUnit(std::string_view text, size_t at) {
  if (at + kEscapeBytes > text.size() || text[at] != '\\' || text[at + 1] != 'u') return -1;
  int32_t unit = 0;
  for (size_t i = at + 2; i < at + kEscapeBytes; ++i) {
    const char c = text[i];
    if (c >= '0' && c <= '9') {
      unit = unit * 16 + (c - '0');
    } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
      unit = unit * 16 + ((c | 0x20) - 'a' + 10);
    } else {
      return -1;
    }
  }
  return unit;
}

bool IsHigh(int32_t unit) {
  return unit >= 0xD800 && unit <= 0xDBFF;
}

bool IsLow(int32_t unit) {
  return unit >= 0xDC00 && unit <= 0xDFFF;
}

// Copies the escape that begins here and returns how many bytes it has.
size_t CopyEscape(std::string_view json, size_t at, std::string& out) {
  const int32_t unit = EscapedUnit(json, at);
  if (IsHigh(unit) && IsLow(EscapedUnit(json, at + kEscapeBytes))) {
    out.append(json.substr(at, 2 * kEscapeBytes));
    return 2 * kEscapeBytes;
  }
  if (IsHigh(unit) || IsLow(unit)) {
    out.append("\\ufffd");
    return kEscapeBytes;
  }
  out.append(json.substr(at, 2));
  return 2;
}

}  // namespace

std::string WithReplacedText(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  bool in_string = false;
  for (size_t i = 0; i < json.size();) {
    if (in_string && json[i] == '\\' && i + 1 < json.size() && static_cast<uint8_t>(json[i + 1]) < 0x80) {
      i += CopyEscape(json, i, out);
      continue;
    }
    if (json[i] == '"') in_string = !in_string;
    const size_t bytes = in_string ? CharacterBytes(json, i) : 1;
    if (bytes == 0) {
      out.append(kReplacement);
      ++i;
      continue;
    }
    out.append(json.substr(i, bytes));
    i += bytes;
  }
  return out;
}

}  // namespace sluice::p2p
