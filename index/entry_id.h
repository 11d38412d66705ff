#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "node/digest.h"

namespace sluice::index {

// Which entry of the store: the one place that says by what an entry's files and its keys in the index are
// named. There is one entry for each digest.
class EntryId {
 public:
  static constexpr size_t kKeyBytes = Digest::kBytes;

  EntryId() = default;
  explicit EntryId(const Digest& digest) : digest_(digest) {}

  const Digest& digest() const { return digest_; }

  // The name of its file in blobs/ and of its recipe in recipes/: 64 hexadecimal digits.
  std::string FileName() const { return digest_.Hex(); }
  // Errors: InvalidArgument (no entry's file is named so).
  static absl::StatusOr<EntryId> ParseFileName(std::string_view name) {
    const absl::StatusOr<Digest> digest = Digest::ParseHex(name);
    if (!digest.ok()) return digest.status();
    return EntryId(*digest);
  }

  // As it stands in the index's keys: kKeyBytes, in the order of operator<=>.
  std::string_view KeyBytes() const {
    return {reinterpret_cast<const char*>(digest_.bytes().data()), kKeyBytes};
  }
  // REQUIRES: bytes.size() == kKeyBytes
  static EntryId FromKeyBytes(std::string_view bytes) {
    return EntryId(Digest(std::span<const uint8_t, Digest::kBytes>(
        reinterpret_cast<const uint8_t*>(bytes.data()), Digest::kBytes)));
  }

  // "blob sha256:<64 hex>", for people.
  std::string ToString() const { return "blob " + digest_.ToString(); }

  friend auto operator<=>(const EntryId&, const EntryId&) = default;

  template <typename H>
  friend H AbslHashValue(H h, const EntryId& id) {
    return H::combine(std::move(h), id.digest_);
  }

 private:
  Digest digest_;
};

}  // namespace sluice::index
