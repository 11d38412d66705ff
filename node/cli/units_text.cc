#include "node/cli/units_text.h"

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sluice::cli {

std::string BytesText(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  // 1023.95 and above would be printed as 1024.0.
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string ShareText(uint64_t part, uint64_t whole) {
  const double percent = whole == 0 ? 100 : 100 * static_cast<double>(part) / static_cast<double>(whole);
  return absl::StrCat(BytesText(part), " (", static_cast<int>(percent), " %)");
}

std::string OneLine(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_iscntrl(byte)) {
      absl::StrAppend(&line, absl::StrFormat("\\x%02x", byte));
    } else {
      line += c;
    }
  }
  return line;
}

std::string SecondsText(int64_t seconds) {
  constexpr int64_t kMinute = 60, kHour = 60 * kMinute, kDay = 24 * kHour;
  if (seconds < kMinute) return absl::StrCat(seconds, "s");
  if (seconds < kHour) return absl::StrCat(seconds / kMinute, "m ", seconds % kMinute, "s");
  if (seconds < kDay) return absl::StrCat(seconds / kHour, "h ", seconds % kHour / kMinute, "m");
  return absl::StrCat(seconds / kDay, "d ", seconds % kDay / kHour, "h");
}

}  // namespace sluice::cli
