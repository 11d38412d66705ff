#pragma once

#include <atomic>
#include <functional>
#include <utility>

namespace sluice {

// Whether nobody waits for a call that blocks any more; asked again and again, as often as it likes.
class CancelCheck {
 public:
  // Never.
  CancelCheck() = default;
  // Once `flag`, which outlives this, is true.
  CancelCheck(const std::atomic<bool>& flag) : check_([&flag] { return flag.load(); }) {}
  // `check` is thread-safe and does not block.
  explicit CancelCheck(std::function<bool()> check) : check_(std::move(check)) {}

  operator bool() const { return check_ && check_(); }

 private:
  std::function<bool()> check_;
};

}  // namespace sluice
