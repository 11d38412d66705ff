#include "tests/sim/crowd/virtual_loop.h"

#include <algorithm>
#include <utility>

namespace sluice::sim {

// What a dropped task holds may post again.
void VirtualLoop::DropAll() {
  timers_.clear();
  free_.clear();
  while (!ready_.empty() || !posted_.empty()) {
    std::exchange(ready_, {}).clear();
    std::exchange(posted_, {}).clear();
    timers_.clear();
  }
}

void VirtualLoop::Arm(Instant when, Posted posted) {
  uint32_t place = static_cast<uint32_t>(posted_.size());
  if (free_.empty()) {
    posted_.push_back(std::move(posted));
  } else {
    place = free_.back();
    free_.pop_back();
    posted_[place] = std::move(posted);
  }
  timers_.push_back({std::max(when, now_), next_timer_++, place});
  std::push_heap(timers_.begin(), timers_.end());
}

void VirtualLoop::RunReady() {
  while (!ready_.empty()) {
    Posted posted = std::move(ready_.front());
    ready_.pop_front();
    if (posted.node->dead()) continue;
    std::move(posted.task)();
  }
}

bool VirtualLoop::Step(Instant end) {
  RunReady();
  if (timers_.empty() || timers_.front().when > end) {
    now_ = std::max(now_, end);
    return false;
  }
  now_ = timers_.front().when;
  while (!timers_.empty() && timers_.front().when == now_) {
    std::pop_heap(timers_.begin(), timers_.end());
    const uint32_t place = timers_.back().place;
    timers_.pop_back();
    ready_.push_back(std::move(posted_[place]));
    free_.push_back(place);
  }
  RunReady();
  return true;
}

}  // namespace sluice::sim
