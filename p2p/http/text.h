#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sluice::p2p {

// Debian builds absl with a string_view of its own, which the standard one does not turn into by itself.
// These carry text over and back; the bytes are not copied and must outlive the result.
inline absl::string_view Abs(std::string_view text) {
  return {text.data(), text.size()};
}
inline std::string_view Std(absl::string_view text) {
  return {text.data(), text.size()};
}

inline constexpr size_t kQuotedBytesMax = 128;

// Text from outside as it may stand in a message: in quotes, what is unprintable escaped, shortened when
// long.
inline std::string Quoted(std::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(Abs(text.substr(0, kQuotedBytesMax))),
                      text.size() > kQuotedBytesMax ? "…" : "", "\"");
}

// A name that a user gave, as it may stand in a message: as it is, or in quotes if it would break the line.
inline std::string OneLine(std::string_view text) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  return std::any_of(text.begin(), text.end(), is_control) ? Quoted(text) : std::string(text);
}

}  // namespace sluice::p2p
