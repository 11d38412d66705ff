#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace sluice {

// The name of a blob: the SHA-256 of its bytes.
// Source: OCI image specification, descriptor.md, "Digests"; only the registered algorithm sha256 is
// accepted.
class Digest {
 public:
  static constexpr size_t kBytes = 32;

  // The all-zero digest; it names no blob.
  Digest() = default;
  explicit Digest(std::span<const uint8_t, kBytes> bytes);

  // Parses "sha256:" and 64 lower-case hexadecimal digits, nothing before and nothing after.
  // Errors: InvalidArgument, with the text quoted (shortened when long).
  static absl::StatusOr<Digest> Parse(std::string_view text);

  // Parses 64 lower-case hexadecimal digits. Errors: InvalidArgument.
  static absl::StatusOr<Digest> ParseHex(std::string_view hex);

  std::span<const uint8_t, kBytes> bytes() const { return bytes_; }
  std::string Hex() const;
  // "sha256:<64 hex>".
  std::string ToString() const;
  // The first 12 hexadecimal digits, for people.
  std::string Short() const;

  friend auto operator<=>(const Digest&, const Digest&) = default;

  template <typename H>
  friend H AbslHashValue(H h, const Digest& d) {
    return H::combine(std::move(h), d.bytes_);
  }

 private:
  std::array<uint8_t, kBytes> bytes_{};
};

}  // namespace sluice
