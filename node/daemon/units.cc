#include "node/daemon/units.h"

#include <sys/statvfs.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sluice {
namespace {

constexpr std::array<std::pair<const char*, uint64_t>, 9> kSizeUnits = {{{"", 1},
                                                                         {"Ti", uint64_t{1} << 40},
                                                                         {"Gi", uint64_t{1} << 30},
                                                                         {"Mi", uint64_t{1} << 20},
                                                                         {"Ki", uint64_t{1} << 10},
                                                                         {"T", 1'000'000'000'000},
                                                                         {"G", 1'000'000'000},
                                                                         {"M", 1'000'000},
                                                                         {"k", 1'000}}};

constexpr std::array<std::pair<const char*, int64_t>, 6> kTimeUnits = {{{"h", 3'600'000'000'000},
                                                                        {"m", 60'000'000'000},
                                                                        {"s", 1'000'000'000},
                                                                        {"ms", 1'000'000},
                                                                        {"us", 1'000},
                                                                        {"ns", 1}}};

std::pair<std::string, std::string> SplitUnit(const std::string& text) {
  const size_t unit = text.find_first_not_of("0123456789.");
  if (unit == std::string::npos) return {text, ""};
  return {text.substr(0, unit), text.substr(unit)};
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(const std::string& text) {
  const auto [number, unit] = SplitUnit(text);
  uint64_t value = 0;
  if (absl::SimpleAtoi(number, &value)) {
    for (const auto& [name, factor] : kSizeUnits) {
      if (unit != name) continue;
      if (value > std::numeric_limits<uint64_t>::max() / factor) break;
      return value * factor;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", text,
      "\" is not a size: write a whole number with Ki, Mi, Gi, Ti, k, M, G, T or no unit, as in 64Gi"));
}

absl::StatusOr<Duration> ParseDuration(const std::string& text) {
  const auto [number, unit] = SplitUnit(text);
  double value = 0;
  if (absl::SimpleAtod(number, &value) && std::isfinite(value)) {
    for (const auto& [name, factor] : kTimeUnits) {
      if (unit != name) continue;
      const double ns = value * static_cast<double>(factor);
      if (ns > 9e18) break;
      return Duration(static_cast<int64_t>(std::llround(ns)));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a time: write a number with ns, us, ms, s, m or h, as in 20ms"));
}

absl::StatusOr<uint64_t> CapacityOf(const std::string& text, const std::string& directory) {
  absl::string_view percent_text = text;
  if (!absl::ConsumeSuffix(&percent_text, "%")) {
    const absl::StatusOr<uint64_t> size = ParseSize(text);
    if (size.ok() && *size == 0) return absl::InvalidArgumentError("must be more than nothing");
    return size;
  }
  uint32_t percent = 0;
  if (!absl::SimpleAtoi(percent_text, &percent) || percent < 1 || percent > 100) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is neither a size, as 64Gi, nor 1% to 100% of the file system"));
  }
  struct statvfs stat {};
  if (statvfs(directory.c_str(), &stat) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot ask for the size of the file system of ", directory,
                                               ": ", std::strerror(errno)));
  }
  const uint64_t capacity = uint64_t{stat.f_blocks} * stat.f_frsize / 100 * percent;
  // A tmpfs without a limit and some that are mounted by FUSE say so.
  if (capacity == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the file system of ", directory, " does not say how large it is: give a size in place of ", text));
  }
  return capacity;
}

std::string FormatSize(uint64_t bytes) {
  for (const auto& [name, factor] : kSizeUnits) {
    if (factor > 1 && factor % 1024 == 0 && bytes >= factor && bytes % factor == 0) {
      return absl::StrCat(bytes / factor, name);
    }
  }
  return absl::StrCat(bytes);
}

std::string FormatDuration(Duration duration) {
  for (const auto& [name, factor] : kTimeUnits) {
    if (duration.count() != 0 && duration.count() % factor == 0)
      return absl::StrCat(duration.count() / factor, name);
  }
  return "0s";
}

}  // namespace sluice
