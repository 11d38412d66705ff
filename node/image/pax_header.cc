#include "node/image/pax_header.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr std::string_view kSchilyXattr = "SCHILY.xattr.";
constexpr std::string_view kLibarchiveXattr = "LIBARCHIVE.xattr.";
constexpr std::string_view kSparseOffset = "GNU.sparse.offset";
constexpr std::string_view kSparseNumBytes = "GNU.sparse.numbytes";
constexpr size_t kNanosecondDigits = 9;

bool IsDigits(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::optional<uint8_t> HexDigit(char c) {
  if (c >= '0' && c <= '9') return static_cast<uint8_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<uint8_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<uint8_t>(c - 'A' + 10);
  return std::nullopt;
}

std::optional<std::string> DecodeUrl(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (text.size() - i < 3) return std::nullopt;
    const std::optional<uint8_t> high = HexDigit(text[i + 1]);
    const std::optional<uint8_t> low = HexDigit(text[i + 2]);
    // No name has a NUL: it would end there, silently.
    if (!high || !low || (*high == 0 && *low == 0)) return std::nullopt;
    decoded += static_cast<char>(*high << 4 | *low);
    i += 2;
  }
  return decoded;
}

// libarchive writes it without padding, which absl takes as well as with it.
std::optional<std::string> DecodeBase64(std::string_view text) {
  std::string decoded;
  if (!absl::Base64Unescape(p2p::Abs(text), &decoded)) return std::nullopt;
  return decoded;
}

absl::Status Unsound(std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("the extended header ", p2p::Abs(why)));
}

// POSIX: these are strings of a file system.
bool IsName(std::string_view key) {
  return key == "path" || key == "linkpath" || key == "uname" || key == "gname" || key == "GNU.sparse.name";
}

}  // namespace

absl::StatusOr<PaxHeader> PaxHeader::Parse(std::vector<char> body) {
  PaxHeader header;
  header.body_ = std::move(body);
  std::string_view rest(header.body_.data(), header.body_.size());
  while (!rest.empty()) {
    // "LENGTH KEY=VALUE\n", where the length is that of all of it.
    const size_t space = rest.substr(0, 20).find(' ');
    const std::string_view digits = rest.substr(0, space);
    size_t length = 0;
    if (space == std::string_view::npos || space == 0 || !IsDigits(digits) ||
        std::from_chars(digits.data(), digits.data() + digits.size(), length).ec != std::errc()) {
      return Unsound("has a record without a length");
    }
    if (length > rest.size() || length < space + 2 || rest[length - 1] != '\n') {
      return Unsound("has a record that does not end where it says");
    }
    const std::string_view record = rest.substr(space + 1, length - space - 2);
    const size_t equals = record.find('=');
    if (equals == std::string_view::npos) return Unsound("has a record without a key");
    if (absl::Status added = header.Add(record.substr(0, equals), record.substr(equals + 1)); !added.ok()) {
      return added;
    }
    rest.remove_prefix(length);
  }
  return header;
}

absl::Status PaxHeader::Add(std::string_view key, std::string_view value) {
  if (key.find('\0') != std::string_view::npos ||
      (IsName(key) && value.find('\0') != std::string_view::npos)) {
    return Unsound("has a name with a NUL in it");
  }
  if (key != kSparseOffset && key != kSparseNumBytes) {
    records_.emplace_back(key, value);
    return absl::OkStatus();
  }
  // GNU's sparse format 0.0 repeats two keys, which pax does not allow: the one place where order counts.
  const std::string_view wanted = sparse_values_ % 2 == 0 ? kSparseOffset : kSparseNumBytes;
  if (key != wanted || value.find(',') != std::string_view::npos) {
    return Unsound("has a map of holes in disorder");
  }
  absl::StrAppend(&sparse_pairs_, sparse_values_ == 0 ? "" : ",", p2p::Abs(value));
  ++sparse_values_;
  return absl::OkStatus();
}

std::optional<std::string_view> PaxHeader::Find(std::string_view key) const {
  const auto found = std::find_if(records_.rbegin(), records_.rend(),
                                  [&](const auto& record) { return record.first == key; });
  if (found == records_.rend() || found->second.empty()) return std::nullopt;
  return found->second;
}

absl::StatusOr<std::map<std::string, std::string>> PaxHeader::Xattrs(uint64_t bytes_max) const {
  std::map<std::string, std::string> xattrs;
  // bsdtar writes each attribute in both ways; the raw one is what every other reader takes.
  for (const auto& [key, value] : records_) {
    if (!key.starts_with(kLibarchiveXattr)) continue;
    std::optional<std::string> name = DecodeUrl(key.substr(kLibarchiveXattr.size()));
    std::optional<std::string> decoded = DecodeBase64(value);
    if (!name || !decoded) {
      return absl::InvalidArgumentError(
          absl::StrCat("its extended attribute ", p2p::Quoted(key), " can't be decoded"));
    }
    xattrs[*std::move(name)] = *std::move(decoded);
  }
  for (const auto& [key, value] : records_) {
    if (key.starts_with(kSchilyXattr)) xattrs[std::string(key.substr(kSchilyXattr.size()))] = value;
  }
  uint64_t bytes = 0;
  for (const auto& [name, value] : xattrs) bytes += name.size() + value.size();
  if (bytes > bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("its extended attributes have more than ", bytes_max, " bytes"));
  }
  return xattrs;
}

std::vector<std::string_view> PaxHeader::UnappliedOfEntry() const {
  std::vector<std::string_view> keys;
  for (const auto& [key, value] : records_) {
    if (key.starts_with("SCHILY.acl.") || key == "RHT.security.selinux") keys.push_back(key);
  }
  return keys;
}

std::vector<std::string_view> PaxHeader::UnappliedOfAll() const {
  std::vector<std::string_view> keys = UnappliedOfEntry();
  for (const auto& [key, value] : records_) {
    const bool of_entry = key == "path" || key == "linkpath" || key == "size" || key == "uid" ||
                          key == "gid" || key == "mtime" || key.starts_with(kSchilyXattr) ||
                          key.starts_with(kLibarchiveXattr);
    if (of_entry) keys.push_back(key);
  }
  return keys;
}

std::optional<int64_t> ParsePaxNumber(std::string_view text) {
  if (text.starts_with('+')) {
    text.remove_prefix(1);
    if (text.starts_with('-')) return std::nullopt;
  }
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end) return std::nullopt;
  return value;
}

std::optional<PaxTime> ParsePaxTime(std::string_view text) {
  const size_t point = text.find('.');
  const std::optional<int64_t> seconds = ParsePaxNumber(text.substr(0, point));
  if (!seconds) return std::nullopt;
  PaxTime time{*seconds, 0};
  if (point == std::string_view::npos) return time;
  const std::string_view fraction = text.substr(point + 1);
  if (!IsDigits(fraction)) return std::nullopt;
  for (size_t i = 0; i < kNanosecondDigits; ++i) {
    time.nanoseconds =
        time.nanoseconds * 10 + (i < fraction.size() ? static_cast<uint32_t>(fraction[i] - '0') : 0);
  }
  // "-1.5" is 1.5 before; nanoseconds count forwards.
  if (text.starts_with('-') && time.nanoseconds != 0) {
    if (time.seconds == std::numeric_limits<int64_t>::min()) return std::nullopt;
    time.seconds -= 1;
    time.nanoseconds = 1000000000 - time.nanoseconds;
  }
  return time;
}

}  // namespace sluice
