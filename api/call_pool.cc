#include "api/call_pool.h"

#include <algorithm>
#include <utility>

namespace sluice::api {

CallPool::CallPool(int threads, int waiting_max)
    : threads_max_(static_cast<size_t>(threads)), waiting_max_(static_cast<size_t>(waiting_max)) {
  // Counted as idle before they run, so that the bound does not depend on how fast they start.
  idle_ = threads_max_;
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

// Threads that the group may take now.
size_t CallPool::FreeFor(const std::string& group) const {
  if (group.empty()) return idle_;
  const auto found = running_.find(group);
  const size_t own = found == running_.end() ? 0 : found->second;
  const size_t others = threads_max_ - idle_ - own;
  const size_t most = std::max<size_t>(1, (threads_max_ - others) / 2);
  return std::min(idle_, most - std::min(own, most));
}

absl::Status CallPool::Post(Task task, const std::string& group) {
  {
    std::lock_guard lock(mutex_);
    const auto waiting_of_group = static_cast<size_t>(std::count_if(
        waiting_.begin(), waiting_.end(), [&](const Call& call) { return call.group == group; }));
    const bool is_full = waiting_.size() >= idle_ + waiting_max_;
    const bool is_groups_full = !group.empty() && waiting_of_group >= FreeFor(group) + (waiting_max_ + 1) / 2;
    if (is_full || is_groups_full)
      return absl::ResourceExhaustedError("the node is busy with other calls; try again later");
    waiting_.push_back({group, std::move(task)});
  }
  changed_.notify_one();
  return absl::OkStatus();
}

// The first that may have a thread.
std::deque<CallPool::Call>::iterator CallPool::NextToRun() {
  return std::find_if(waiting_.begin(), waiting_.end(),
                      [this](const Call& call) { return ending_ || FreeFor(call.group) > 0; });
}

void CallPool::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return NextToRun() != waiting_.end() || (ending_ && waiting_.empty()); });
    const auto next = NextToRun();
    if (next == waiting_.end()) return;
    Call call = std::move(*next);
    waiting_.erase(next);
    --idle_;
    if (!call.group.empty()) ++running_[call.group];
    lock.unlock();
    std::move(call.task)();
    call.task = nullptr;
    lock.lock();
    ++idle_;
    if (!call.group.empty() && --running_[call.group] == 0) running_.erase(call.group);
    // Others of the group, or of those that it left less for, may run now.
    if (!waiting_.empty()) changed_.notify_all();
  }
}

}  // namespace sluice::api
