#include "p2p/registry/token_scope.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

constexpr std::string_view kRepositoryPrefix = "repository:";

}  // namespace

ScopeSet ScopeSet::Parse(std::string_view text) {
  ScopeSet set;
  for (const absl::string_view word : absl::StrSplit(Abs(text), ' ', absl::SkipEmpty())) {
    const size_t first = word.find(':');
    // The name may hold a port, so the actions begin at the last colon.
    const size_t last = word.rfind(':');
    if (first == last) {
      set.Add(std::string(word), {});
      continue;
    }
    set.Add(std::string(word.substr(0, last)), absl::StrSplit(word.substr(last + 1), ',', absl::SkipEmpty()));
  }
  return set;
}

ScopeSet ScopeSet::Repository(std::string_view name, std::string_view actions) {
  ScopeSet set;
  set.Add(absl::StrCat(Abs(kRepositoryPrefix), Abs(name)), absl::StrSplit(Abs(actions), ','));
  return set;
}

void ScopeSet::Add(std::string resource, const Actions& actions) {
  if (resources_.size() >= kResourcesMax && !resources_.contains(resource)) return;
  Actions& known = resources_[std::move(resource)];
  for (const std::string& action : actions) {
    if (known.size() < kActionsMax) known.insert(action);
  }
}

void ScopeSet::Merge(const ScopeSet& other) {
  for (const auto& [resource, actions] : other.resources_) Add(resource, actions);
}

bool ScopeSet::Covers(const ScopeSet& other) const {
  return std::all_of(other.resources_.begin(), other.resources_.end(), [&](const auto& entry) {
    const auto mine = resources_.find(entry.first);
    if (mine == resources_.end()) return false;
    return mine->second.contains("*") ||
           std::includes(mine->second.begin(), mine->second.end(), entry.second.begin(), entry.second.end());
  });
}

ScopeSet ScopeSet::CommonWith(const ScopeSet& other) const {
  ScopeSet common;
  for (const auto& [resource, actions] : other.resources_) {
    const auto mine = resources_.find(resource);
    if (mine == resources_.end()) continue;
    Actions both;
    for (const std::string& action : actions) {
      if (mine->second.contains(action) || mine->second.contains("*")) both.insert(action);
    }
    if (!both.empty() || actions.empty()) common.Add(resource, both);
  }
  return common;
}

bool ScopeSet::Names(std::string_view repository) const {
  return resources_.contains(absl::StrCat(Abs(kRepositoryPrefix), Abs(repository)));
}

bool ScopeSet::MayPush() const {
  return std::any_of(resources_.begin(), resources_.end(), [](const auto& entry) {
    return entry.second.contains("push") || entry.second.contains("*");
  });
}

std::vector<std::string> ScopeSet::Repositories() const {
  std::vector<std::string> names;
  for (const auto& [resource, actions] : resources_) {
    if (resource.starts_with(kRepositoryPrefix)) names.push_back(resource.substr(kRepositoryPrefix.size()));
  }
  return names;
}

std::vector<std::string> ScopeSet::Texts() const {
  std::vector<std::string> texts;
  for (const auto& [resource, actions] : resources_) {
    // As everybody writes it; a server may compare texts.
    std::vector<std::string> ordered(actions.begin(), actions.end());
    texts.push_back(ordered.empty() ? resource : absl::StrCat(resource, ":", absl::StrJoin(ordered, ",")));
  }
  return texts;
}

std::string ScopeSet::ToString() const {
  return absl::StrJoin(Texts(), " ");
}

}  // namespace sluice::p2p
