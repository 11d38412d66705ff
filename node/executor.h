#pragma once

#include <chrono>

#include "absl/functional/any_invocable.h"

namespace sluice {

// Monotonic: a wall clock that jumps ten days moves nothing here.
using Duration = std::chrono::nanoseconds;
using Instant = std::chrono::time_point<std::chrono::steady_clock, Duration>;

using Task = absl::AnyInvocable<void() &&>;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant Now() const = 0;
};

// Runs tasks. The core is handed two: a serial one (the core loop: one thread, in order of posting) and the
// I/O pool (several threads, any order, tasks may block on disk or hash).
//
// Tasks that have not run when the executor is destroyed are dropped, and with them the promises they hold.
class Executor {
 public:
  virtual ~Executor() = default;

  // Any thread. Never runs `task` before it returns.
  virtual void Post(Task task) = 0;
  // Any thread. Runs `task` at `when` or as soon after as possible.
  virtual void PostAt(Instant when, Task task) = 0;
};

}  // namespace sluice
