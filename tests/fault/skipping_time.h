#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "node/executor.h"

namespace sluice::p2p {

// A clock that stands still, and an executor that moves it: a task posted for later runs at once, on the
// executor's thread, and the clock then shows the time it was posted for. So a test of back-off takes no
// time, and can say how long it would have taken.
//
// Thread-safe.
class SkippingTime final : public Clock, public Executor {
 public:
  SkippingTime() : thread_([this] { Run(); }) {}
  ~SkippingTime() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  Instant Now() const override {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  void Advance(Duration duration) {
    const std::lock_guard lock(mutex_);
    now_ += duration;
  }
  void Post(Task task) override { PostAt(Now(), std::move(task)); }
  void PostAt(Instant when, Task task) override {
    {
      const std::lock_guard lock(mutex_);
      delays_.push_back(when > now_ ? when - now_ : Duration(0));
      tasks_.push_back({when, std::move(task)});
    }
    changed_.notify_all();
  }

  // How long each task was put off.
  std::vector<Duration> delays() const {
    const std::lock_guard lock(mutex_);
    return delays_;
  }

 private:
  struct Entry {
    Instant when;
    Task task;
  };

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (stopping_) return;
      Entry entry = std::move(tasks_.front());
      tasks_.pop_front();
      now_ = std::max(now_, entry.when);
      lock.unlock();
      std::move(entry.task)();
      lock.lock();
    }
  }

  mutable std::mutex mutex_;  // guards all but thread_
  std::condition_variable changed_;
  Instant now_{std::chrono::hours(1)};
  std::deque<Entry> tasks_;
  std::vector<Duration> delays_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace sluice::p2p
