#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "node/digest.h"

namespace sluice {

// Which manifest says that a blob has a root: so that people are told whose word is wrong.
//
// Thread-safe. Keeps the last ones.
class RootVouchers {
 public:
  static constexpr size_t kKeptMax = 4096;

  // `manifest` is for people, as "manifest sha256:… of registry/repository:tag".
  void Note(const Digest& blob, const Digest& root, const std::string& manifest);
  // The last that said so; empty if none is known.
  std::string Find(const Digest& blob, const Digest& root) const;

 private:
  using Claim = std::pair<Digest, Digest>;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<Claim, std::string> manifests_;
  std::deque<Claim> order_;  // the same; the oldest first
};

}  // namespace sluice
