#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sluice::index {

// A few threads that do the parts of one piece of work side by side.
class SyncPool {
 public:
  // `helpers` threads besides the caller's; none: the caller does it all, in order.
  explicit SyncPool(size_t helpers);
  ~SyncPool();

  // Calls work(0) to work(count - 1), each once, and returns when all have returned. REQUIRES: one caller at
  // a time.
  void ForEach(size_t count, const std::function<void(size_t)>& work);

 private:
  void Help();
  void WorkOff(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;  // guards what follows, except helpers_
  std::condition_variable wake_;
  std::condition_variable done_;
  const std::function<void(size_t)>* work_ = nullptr;
  size_t next_ = 0;
  size_t count_ = 0;
  size_t working_ = 0;
  bool stop_ = false;

  std::vector<std::thread> helpers_;
};

}  // namespace sluice::index
