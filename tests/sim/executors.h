#pragma once

#include <cstddef>
#include <map>
#include <utility>
#include <vector>

#include "node/executor.h"
#include "tests/sim/random.h"

// Time and threads of a simulation: both pass only when it says so.
namespace sluice::sim {

class VirtualClock final : public Clock {
 public:
  Instant Now() const override { return now; }
  Instant now{std::chrono::hours(1)};
};

// Runs one task at a time: the core loop in order of posting, the pool in an order that the seed says.
class SteppedExecutor final : public Executor {
 public:
  enum class Order { kPosted, kSeeded };
  SteppedExecutor(const VirtualClock& clock, Random& random, Order order)
      : clock_(clock), random_(random), order_(order) {}

  void Post(Task task) override { tasks_.push_back(std::move(task)); }
  void PostAt(Instant when, Task task) override { timers_.emplace(when, std::move(task)); }

  // Runs a task that is due; returns whether there was one.
  bool RunOne() {
    while (!timers_.empty() && timers_.begin()->first <= clock_.Now()) {
      tasks_.push_back(std::move(timers_.begin()->second));
      timers_.erase(timers_.begin());
    }
    if (tasks_.empty()) return false;
    const size_t next = order_ == Order::kPosted ? 0 : random_.Below(tasks_.size());
    Task task = std::move(tasks_[next]);
    tasks_.erase(tasks_.begin() + static_cast<std::ptrdiff_t>(next));
    std::move(task)();
    return true;
  }

  // Whether nothing is posted; timers may be.
  bool Rests() const { return tasks_.empty(); }

  // When the next timer is due; Instant::max() without one.
  Instant NextTimer() const { return timers_.empty() ? Instant::max() : timers_.begin()->first; }

 private:
  const VirtualClock& clock_;
  Random& random_;
  const Order order_;
  std::vector<Task> tasks_;
  std::multimap<Instant, Task> timers_;
};

}  // namespace sluice::sim
