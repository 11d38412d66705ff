#include "node/digest.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

constexpr std::string_view kAlgorithm = "sha256:";
constexpr size_t kQuotedMax = 96;

std::string Quoted(std::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(std::string(text.substr(0, kQuotedMax))),
                      text.size() > kQuotedMax ? "…" : "", "\"");
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

Digest::Digest(std::span<const uint8_t, kBytes> bytes) {
  std::copy(bytes.begin(), bytes.end(), bytes_.begin());
}

absl::StatusOr<Digest> Digest::Parse(std::string_view text) {
  if (!text.starts_with(kAlgorithm)) {
    return absl::InvalidArgumentError(
        absl::StrCat("digest ", Quoted(text), " does not start with \"sha256:\""));
  }
  return ParseHex(text.substr(kAlgorithm.size()));
}

absl::StatusOr<Digest> Digest::ParseHex(std::string_view hex) {
  Digest digest;
  if (hex.size() != 2 * kBytes) {
    return absl::InvalidArgumentError(absl::StrCat("digest ", Quoted(hex), " has ", hex.size(),
                                                   " characters where 64 hexadecimal digits belong"));
  }
  for (size_t i = 0; i < kBytes; ++i) {
    const int high = HexValue(hex[2 * i]);
    const int low = HexValue(hex[2 * i + 1]);
    if (high < 0 || low < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("digest ", Quoted(hex), " is not made of lower-case hexadecimal digits"));
    }
    digest.bytes_[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return digest;
}

std::string Digest::Hex() const {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes_.data()), bytes_.size()));
}

std::string Digest::ToString() const {
  return std::string(kAlgorithm) + Hex();
}

std::string Digest::Short() const {
  return Hex().substr(0, 12);
}

}  // namespace sluice
