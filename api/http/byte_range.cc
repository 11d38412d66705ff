#include "api/http/byte_range.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace sluice::api {
namespace {

constexpr std::string_view kUnit = "bytes";

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool IsUnit(std::string_view text) {
  return std::equal(text.begin(), text.end(), kUnit.begin(), kUnit.end(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; });
}

// Digits only. What doesn't fit is larger than any blob.
std::optional<uint64_t> ParsePosition(std::string_view text) {
  if (text.empty() || !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? value : UINT64_MAX;
}

}  // namespace

RequestedRange ParseRange(std::string_view header, uint64_t size) {
  const size_t equals = header.find('=');
  if (equals == std::string_view::npos || !IsUnit(Trim(header.substr(0, equals)))) return WholeRange{};
  const std::string_view spec = Trim(header.substr(equals + 1));
  const size_t dash = spec.find('-');
  if (dash == std::string_view::npos) return UnsatisfiableRange{};
  const std::string_view first_text = spec.substr(0, dash), last_text = spec.substr(dash + 1);
  const std::optional<uint64_t> first = ParsePosition(first_text), last = ParsePosition(last_text);
  if (first_text.empty()) {
    if (!last || *last == 0) return UnsatisfiableRange{};
    const uint64_t length = std::min(*last, size);
    return ByteRange{size - length, length};
  }
  if (!first || *first >= size) return UnsatisfiableRange{};
  if (last_text.empty()) return ByteRange{*first, size - *first};
  if (!last || *last < *first) return UnsatisfiableRange{};
  return ByteRange{*first, std::min(*last, size - 1) - *first + 1};
}

}  // namespace sluice::api
