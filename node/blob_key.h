#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "node/digest.h"

namespace sluice {

// Under which name this node keeps a blob: the one place that says by what its files, its keys in the index
// and its guard in the keeper are named. It is the blob's digest, but for a blob of which several things are
// claimed at once: then one claim has the digest's name, and each of the others has one of its own (see
// index/claims.h).
//
// What is said to other nodes and registries names a blob by its digest, never by its key.
class BlobKey {
 public:
  static constexpr size_t kKeyBytes = Digest::kBytes;

  // Of nothing.
  BlobKey() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): of whoever has a digest's own name.
  BlobKey(const Digest& name) : name_(name) {}

  // Itself: the blob's digest, if it is kept by that.
  const Digest& name() const { return name_; }
  // Whether the blob is kept by its digest's own name.
  bool IsOf(const Digest& digest) const { return name_ == digest; }

  // The name of its file in blobs/ and of its recipe in recipes/: 64 hexadecimal digits.
  std::string FileName() const { return name_.Hex(); }
  // Errors: InvalidArgument (no blob's file is named so).
  static absl::StatusOr<BlobKey> ParseFileName(std::string_view name) {
    const absl::StatusOr<Digest> parsed = Digest::ParseHex(name);
    if (!parsed.ok()) return parsed.status();
    return BlobKey(*parsed);
  }

  // As it stands in the index's keys: kKeyBytes, in the order of operator<=>.
  std::string_view KeyBytes() const {
    return {reinterpret_cast<const char*>(name_.bytes().data()), kKeyBytes};
  }
  // REQUIRES: bytes.size() == kKeyBytes
  static BlobKey FromKeyBytes(std::string_view bytes) {
    return BlobKey(Digest(std::span<const uint8_t, Digest::kBytes>(
        reinterpret_cast<const uint8_t*>(bytes.data()), Digest::kBytes)));
  }

  // "blob sha256:<64 hex>", for people.
  std::string ToString() const { return "blob " + name_.ToString(); }
  // The first 12 hexadecimal digits, for people.
  std::string Short() const { return name_.Short(); }

  friend auto operator<=>(const BlobKey&, const BlobKey&) = default;

  template <typename H>
  friend H AbslHashValue(H h, const BlobKey& key) {
    return H::combine(std::move(h), key.name_);
  }

 private:
  Digest name_;
};

}  // namespace sluice
