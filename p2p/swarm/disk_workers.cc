#include "p2p/swarm/disk_workers.h"

#include <chrono>
#include <utility>

namespace sluice::p2p {

DiskWorkers::DiskWorkers(int count) {
  for (int i = 0; i < count; ++i) threads_.emplace_back([this] { Run(); });
}

void DiskWorkers::PostAt(Instant when, Task task) {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  tasks_.emplace(when, std::move(task));
  changed_.notify_one();
}

std::vector<Task> DiskWorkers::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
  std::lock_guard lock(mutex_);
  std::vector<Task> left;
  for (auto& [when, task] : tasks_) left.push_back(std::move(task));
  tasks_.clear();
  return left;
}

void DiskWorkers::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (tasks_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const Instant due = tasks_.begin()->first;
    if (due > std::chrono::steady_clock::now()) {
      changed_.wait_until(lock, due);
      continue;
    }
    Task task = std::move(tasks_.begin()->second);
    tasks_.erase(tasks_.begin());
    lock.unlock();
    std::move(task)();
    task = nullptr;
    lock.lock();
  }
}

}  // namespace sluice::p2p
