#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sluice {

inline constexpr size_t kTarBlockBytes = 512;
using TarBlock = std::span<const std::byte, kTarBlockBytes>;

// One header block of a tar archive: V7, ustar (POSIX.1-1988), that of star, or GNU tar's old one. Names are
// bytes.
struct TarHeader {
  enum class Dialect : uint8_t { kV7, kUstar, kStar, kGnu };

  Dialect dialect = Dialect::kV7;
  char type = 0;
  std::string path;  // with ustar's prefix
  std::string link_path;
  int64_t size = 0;
  int64_t mode = 0;
  int64_t uid = 0;
  int64_t gid = 0;
  int64_t mtime_s = 0;
  int64_t device_major = 0;  // of types '3' and '4' only: others leave anything there
  int64_t device_minor = 0;
};

bool IsZeroBlock(TarBlock block);
// Whether the checksum is right, as POSIX has it or summed with signed bytes, as some old tars did.
bool IsTarHeader(TarBlock block);

// Errors: InvalidArgument (a field that is no number, or none of 64 bits; it is named); type and paths are
// set then too. REQUIRES: IsTarHeader(block).
absl::Status ParseTarHeader(TarBlock block, TarHeader& header);

// A number field: octal, with blanks around it; or binary (base 256), maybe negative. No digit at all is 0.
// nullopt: neither, or none of 64 bits.
std::optional<int64_t> ParseTarNumber(std::string_view field);

}  // namespace sluice
