#include "p2p/registry/allow_list.h"

#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

constexpr size_t kPatternsShownMax = 8;

absl::Status Invalid(std::string_view pattern, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("allow-list pattern ", Quoted(pattern), ": ", why));
}

// Greedy match with one point to fall back to, so the time is at most pattern times text.
bool Matches(std::string_view pattern, std::string_view text) {
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;
  size_t star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

}  // namespace

absl::StatusOr<AllowList> AllowList::Create(std::span<const std::string> patterns) {
  if (patterns.size() > kAllowPatternsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the allow-list has ", patterns.size(), " patterns, more than ", kAllowPatternsMax));
  }
  AllowList list;
  for (const std::string& pattern : patterns) {
    if (pattern.size() > kAllowPatternBytesMax) return Invalid(pattern, "it is too long");
    if (pattern == "*") {
      list.patterns_.push_back({"*", "*"});
      continue;
    }
    const size_t slash = pattern.find('/');
    if (slash == std::string::npos || slash == 0 || slash + 1 == pattern.size()) {
      return Invalid(pattern, "expected registry/repository, e.g. \"registry.example/team/*\", or \"*\"");
    }
    list.patterns_.push_back({pattern.substr(0, slash), pattern.substr(slash + 1)});
  }
  return list;
}

absl::Status AllowList::Permits(const BlobOrigin& origin) const {
  for (const Pattern& pattern : patterns_) {
    if (Matches(pattern.registry, origin.registry) && Matches(pattern.repository, origin.repository)) {
      return absl::OkStatus();
    }
  }
  std::string shown;
  for (size_t i = 0; i < patterns_.size() && i < kPatternsShownMax; ++i) {
    absl::StrAppend(&shown, i == 0 ? "" : ", ", patterns_[i].registry, "/", patterns_[i].repository);
  }
  if (patterns_.size() > kPatternsShownMax) absl::StrAppend(&shown, ", …");
  return absl::PermissionDeniedError(absl::StrCat(origin.registry, "/", origin.repository,
                                                  " matches no pattern of this node's allow-list (",
                                                  shown.empty() ? "it is empty" : shown, ")"));
}

}  // namespace sluice::p2p
