#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "node/tls/identity.h"

namespace sluice::tls {

// The identity that new connections are made with; who serves and who asks look at the same.
//
// Thread-safe.
class CurrentIdentity {
 public:
  explicit CurrentIdentity(std::shared_ptr<const Identity> identity) : identity_(std::move(identity)) {}

  // Never null.
  std::shared_ptr<const Identity> Get() const {
    const std::lock_guard lock(mutex_);
    return identity_;
  }
  // REQUIRES: not null
  void Set(std::shared_ptr<const Identity> identity) {
    const std::lock_guard lock(mutex_);
    identity_ = std::move(identity);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Identity> identity_;  // guarded by mutex_
};

}  // namespace sluice::tls
