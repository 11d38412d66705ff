#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace sluice {

// An extended attribute's name as EROFS keeps it: the prefix by number, the rest as bytes.
// Source: Linux fs/erofs/erofs_fs.h, EROFS_XATTR_INDEX_*.
struct ErofsXattrName {
  uint8_t prefix = 0;
  std::string_view rest;  // empty for ACLs, whose whole name is the prefix
};

inline constexpr size_t kXattrNameBytesMax = 255;      // Linux, in full
inline constexpr size_t kXattrValueBytesMax = 65'535;  // EROFS has 16 bits for it; Linux allows one more
// Of all attributes of a file, as ErofsXattrBytes counts them: EROFS counts them by fours in 16 bits.
inline constexpr size_t kXattrSetBytesMax = (65'535 - 1) * 4;

// None if EROFS has no place for such a name: it has user.*, trusted.*, security.*, and the POSIX ACLs.
std::optional<ErofsXattrName> SplitXattrName(std::string_view name);

// What an attribute takes in an image.
size_t ErofsXattrBytes(const ErofsXattrName& name, size_t value_bytes);

}  // namespace sluice
