#include "api/call_pool.h"

#include <utility>

namespace sluice::api {

CallPool::CallPool(int threads, int waiting_max) : waiting_max_(static_cast<size_t>(waiting_max)) {
  // Counted as idle before they run, so that the bound does not depend on how fast they start.
  idle_ = static_cast<size_t>(threads);
  threads_.reserve(idle_);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

CallPool::~CallPool() {
  Stop();
}

void CallPool::Stop() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

absl::Status CallPool::Post(Task task) {
  {
    std::lock_guard lock(mutex_);
    if (waiting_.size() >= idle_ + waiting_max_) {
      return absl::ResourceExhaustedError("the node is busy with other calls; try again later");
    }
    waiting_.push_back(std::move(task));
  }
  changed_.notify_one();
  return absl::OkStatus();
}

void CallPool::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Task task = std::move(waiting_.front());
    waiting_.pop_front();
    --idle_;
    lock.unlock();
    std::move(task)();
    task = nullptr;
    lock.lock();
    ++idle_;
  }
}

}  // namespace sluice::api
