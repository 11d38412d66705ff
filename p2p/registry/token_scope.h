#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::p2p {

// What may be done with which resources of a registry: "repository:team/app:pull,push".
// Source: distribution specification, "Token Scope Documentation".
//
// A value; thread-compatible.
class ScopeSet {
 public:
  static constexpr size_t kResourcesMax = 16;  // what comes beyond them is left out
  static constexpr size_t kActionsMax = 16;    // of one resource

  // Scopes parted by blanks. A word that is no scope stands for a resource without actions.
  static ScopeSet Parse(std::string_view text);
  // "pull" or "pull,push" of a repository.
  static ScopeSet Repository(std::string_view name, std::string_view actions);

  void Merge(const ScopeSet& other);
  // Whether whoever may do this may do all of `other`. The action "*" stands for all.
  bool Covers(const ScopeSet& other) const;
  // What is in both.
  ScopeSet CommonWith(const ScopeSet& other) const;
  bool Names(std::string_view repository) const;
  bool MayPush() const;
  // The names of the repositories in it, in order.
  std::vector<std::string> Repositories() const;
  bool empty() const { return resources_.empty(); }

  // One text a resource, in order of resources.
  std::vector<std::string> Texts() const;
  // Those, parted by blanks. Equal sets give equal texts.
  std::string ToString() const;

  friend bool operator==(const ScopeSet&, const ScopeSet&) = default;

 private:
  using Actions = std::set<std::string>;
  void Add(std::string resource, const Actions& actions);

  std::map<std::string, Actions> resources_;  // "repository:team/app" -> its actions
};

}  // namespace sluice::p2p
