#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

// The names that another node has proven to have. One that has proven none (there is no TLS, or all nodes
// share one certificate) may call itself as it likes: then a name is a claim.
//
// A value; thread-compatible.
class ProvenNames {
 public:
  ProvenNames() = default;
  explicit ProvenNames(std::vector<std::string> names) : names_(std::move(names)) {}

  // Whether it may call itself so. Case counts: to DNS "A" and "a" are one, but two members could be called
  // so.
  bool Allow(std::string_view name) const {
    return names_.empty() || std::find(names_.begin(), names_.end(), name) != names_.end();
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
};

}  // namespace sluice
