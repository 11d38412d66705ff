#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"

namespace sluice::p2p {

inline constexpr size_t kAllowPatternsMax = 1024;
inline constexpr size_t kAllowPatternBytesMax = 512;

// Which repositories this node may ask. A pattern is "registry/repository", where '*' stands for any run of
// characters: "registry.example:5000/team/*", "*.example/*". A '*' left of the first '/' never matches a '/',
// so a repository can't pose as a registry. The pattern "*" permits everything; an empty list permits
// nothing.
//
// Immutable after Create, so thread-safe.
class AllowList {
 public:
  // Errors: InvalidArgument, with the pattern quoted and the rule that it breaks.
  static absl::StatusOr<AllowList> Create(std::span<const std::string> patterns);

  // Errors: PermissionDenied, which names the repository and the patterns.
  absl::Status Permits(const BlobOrigin& origin) const;

 private:
  struct Pattern {
    std::string registry;
    std::string repository;
  };

  AllowList() = default;

  std::vector<Pattern> patterns_;
};

}  // namespace sluice::p2p
