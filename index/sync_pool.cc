#include "index/sync_pool.h"

namespace sluice::index {

SyncPool::SyncPool(size_t helpers) {
  for (size_t i = 0; i < helpers; ++i) helpers_.emplace_back([this] { Help(); });
}

SyncPool::~SyncPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    wake_.notify_all();
  }
  for (std::thread& helper : helpers_) helper.join();
}

void SyncPool::ForEach(size_t count, const std::function<void(size_t)>& work) {
  std::unique_lock lock(mutex_);
  work_ = &work;
  next_ = 0;
  count_ = count;
  if (count > 1) wake_.notify_all();
  WorkOff(lock);
  done_.wait(lock, [this] { return working_ == 0; });
  work_ = nullptr;
}

void SyncPool::WorkOff(std::unique_lock<std::mutex>& lock) {
  while (next_ < count_) {
    const size_t part = next_++;
    ++working_;
    lock.unlock();
    (*work_)(part);
    lock.lock();
    if (--working_ == 0) done_.notify_all();
  }
}

void SyncPool::Help() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || next_ < count_; });
    if (stop_) return;
    WorkOff(lock);
  }
}

}  // namespace sluice::index
