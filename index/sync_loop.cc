#include "index/sync_loop.h"

#include <utility>

namespace sluice::index {

SyncLoop::SyncLoop(Limits limits, std::function<void()> run_batch)
    : limits_(limits), run_batch_(std::move(run_batch)), thread_([this] { Run(); }) {}

SyncLoop::~SyncLoop() {
  Stop();
}

void SyncLoop::Wrote(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  bytes_ += bytes;
  if (!dirty_) {
    dirty_ = true;
    dirty_since_ = std::chrono::steady_clock::now();
    wake_.notify_one();
  } else if (bytes_ >= limits_.bytes_max) {
    wake_.notify_one();
  }
}

void SyncLoop::Hurry() {
  std::lock_guard lock(mutex_);
  hurry_ = true;
  wake_.notify_one();
}

void SyncLoop::Flush() {
  std::unique_lock lock(mutex_);
  const uint64_t asked = ++flush_asked_;
  wake_.notify_one();
  flushed_.wait(lock, [&] { return flush_done_ >= asked || stopped_; });
}

void SyncLoop::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  std::call_once(joined_, [this] { thread_.join(); });
}

bool SyncLoop::DueLocked() const {
  return stopping_ || hurry_ || flush_asked_ > flush_done_ || bytes_ >= limits_.bytes_max;
}

void SyncLoop::Run() {
  std::unique_lock lock(mutex_);
  for (bool last = false; !last;) {
    const Instant idle_until = std::chrono::steady_clock::now() + limits_.idle_interval;
    wake_.wait_until(lock, idle_until, [this] { return DueLocked() || dirty_; });
    if (dirty_) wake_.wait_until(lock, dirty_since_ + limits_.interval, [this] { return DueLocked(); });

    const uint64_t flush = flush_asked_;
    last = stopping_;
    bytes_ = 0;
    hurry_ = dirty_ = false;
    lock.unlock();
    run_batch_();
    lock.lock();
    flush_done_ = flush;
    flushed_.notify_all();
  }
  stopped_ = true;
  flushed_.notify_all();
}

}  // namespace sluice::index
