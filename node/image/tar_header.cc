#include "node/image/tar_header.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

using ::std::string_view_literals::operator""sv;

struct Field {
  size_t offset;
  size_t size;
};
constexpr Field kPath{0, 100};
constexpr Field kMode{100, 8};
constexpr Field kUid{108, 8};
constexpr Field kGid{116, 8};
constexpr Field kSize{124, 12};
constexpr Field kMtime{136, 12};
constexpr Field kChecksum{148, 8};
constexpr size_t kType = 156;
constexpr Field kLinkPath{157, 100};
constexpr Field kMagic{257, 6};
constexpr Field kVersion{263, 2};
constexpr Field kDeviceMajor{329, 8};
constexpr Field kDeviceMinor{337, 8};
constexpr Field kPrefix{345, 155};
constexpr Field kStarPrefix{345, 131};
constexpr Field kStarTrailer{508, 4};
constexpr Field kGnuAtime{345, 12};
constexpr Field kGnuCtime{357, 12};

std::string_view Text(TarBlock block, Field field) {
  return {reinterpret_cast<const char*>(block.data()) + field.offset, field.size};
}

std::string_view UntilNul(std::string_view text) {
  return text.substr(0, text.find('\0'));
}

std::optional<int64_t> ParseOctal(std::string_view field) {
  // Some pad in front, some behind; what follows a NUL behind the digits is nobody's.
  field.remove_prefix(std::min(field.find_first_not_of(" \0"sv), field.size()));
  field = UntilNul(field);
  while (field.ends_with(' ')) field.remove_suffix(1);
  uint64_t value = 0;
  for (const char c : field) {
    if (c < '0' || c > '7' || value >> 60 != 0) return std::nullopt;
    value = value << 3 | static_cast<uint64_t>(c - '0');
  }
  return static_cast<int64_t>(value);
}

// Two's complement, highest byte first; the topmost bit only marks it.
std::optional<int64_t> ParseBinary(std::string_view field) {
  const bool negative = (field[0] & 0x40) != 0;
  const uint8_t flip = negative ? 0xff : 0;
  uint64_t value = 0;
  for (size_t i = 0; i < field.size(); ++i) {
    auto byte = static_cast<uint8_t>(static_cast<uint8_t>(field[i]) ^ flip);
    if (i == 0) byte &= 0x7f;
    if (value >> 56 != 0) return std::nullopt;
    value = value << 8 | byte;
  }
  if (value >> 63 != 0) return std::nullopt;
  return negative ? ~static_cast<int64_t>(value) : static_cast<int64_t>(value);
}

TarHeader::Dialect DialectOf(TarBlock block) {
  const std::string_view magic = Text(block, kMagic);
  if (magic == "ustar\0"sv) {
    return Text(block, kStarTrailer) == "tar\0"sv ? TarHeader::Dialect::kStar : TarHeader::Dialect::kUstar;
  }
  if (magic == "ustar "sv && Text(block, kVersion) == " \0"sv) return TarHeader::Dialect::kGnu;
  return TarHeader::Dialect::kV7;
}

// GNU tar has times where ustar has the prefix. Go wrote prefixes there too, until 1.8
// (golang.org/issue/12594), and images of that time are still around: what is no times and is text is taken
// for one, as Go does.
std::string_view GnuPrefix(TarBlock block) {
  const auto is_time = [&](Field field) {
    const std::string_view text = Text(block, field);
    return text[0] == '\0' || ParseTarNumber(text).has_value();
  };
  if (is_time(kGnuAtime) && is_time(kGnuCtime)) return {};
  const std::string_view prefix = UntilNul(Text(block, kPrefix));
  const bool ascii =
      std::all_of(prefix.begin(), prefix.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
  return ascii ? prefix : std::string_view();
}

std::string_view PrefixOf(TarBlock block, TarHeader::Dialect dialect) {
  switch (dialect) {
    case TarHeader::Dialect::kV7:
      return {};
    case TarHeader::Dialect::kUstar:
      return UntilNul(Text(block, kPrefix));
    case TarHeader::Dialect::kStar:
      return UntilNul(Text(block, kStarPrefix));
    case TarHeader::Dialect::kGnu:
      return GnuPrefix(block);
  }
  return {};
}

}  // namespace

bool IsZeroBlock(TarBlock block) {
  return std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{0}; });
}

bool IsTarHeader(TarBlock block) {
  const std::optional<int64_t> wanted = ParseOctal(Text(block, kChecksum));
  if (!wanted) return false;
  int64_t of_unsigned = 0;
  int64_t of_signed = 0;
  for (size_t i = 0; i < block.size(); ++i) {
    const bool in_checksum = i >= kChecksum.offset && i < kChecksum.offset + kChecksum.size;
    const auto byte = in_checksum ? uint8_t{' '} : static_cast<uint8_t>(block[i]);
    of_unsigned += byte;
    of_signed += static_cast<int8_t>(byte);
  }
  return *wanted == of_unsigned || *wanted == of_signed;
}

std::optional<int64_t> ParseTarNumber(std::string_view field) {
  if (!field.empty() && (static_cast<uint8_t>(field[0]) & 0x80) != 0) return ParseBinary(field);
  return ParseOctal(field);
}

absl::Status ParseTarHeader(TarBlock block, TarHeader& header) {
  header = TarHeader();
  header.dialect = DialectOf(block);
  header.type = static_cast<char>(block[kType]);
  header.path = UntilNul(Text(block, kPath));
  header.link_path = UntilNul(Text(block, kLinkPath));
  if (const std::string_view prefix = PrefixOf(block, header.dialect); !prefix.empty()) {
    header.path = absl::StrCat(p2p::Abs(prefix), "/", header.path);
  }
  const bool device = header.type == '3' || header.type == '4';
  const struct {
    Field field;
    int64_t* value;
    const char* name;
    bool wanted;
  } numbers[] = {
      {kMode, &header.mode, "mode", true},
      {kUid, &header.uid, "user", true},
      {kGid, &header.gid, "group", true},
      {kSize, &header.size, "size", true},
      {kMtime, &header.mtime_s, "time", true},
      {kDeviceMajor, &header.device_major, "major device number",
       device && header.dialect != TarHeader::Dialect::kV7},
      {kDeviceMinor, &header.device_minor, "minor device number",
       device && header.dialect != TarHeader::Dialect::kV7},
  };
  for (const auto& [field, value, name, wanted] : numbers) {
    if (!wanted) continue;
    const std::optional<int64_t> number = ParseTarNumber(Text(block, field));
    if (!number) {
      return absl::InvalidArgumentError(
          absl::StrCat("its ", name, " is no number of 64 bits: ", p2p::Quoted(Text(block, field))));
    }
    *value = *number;
  }
  return absl::OkStatus();
}

}  // namespace sluice
