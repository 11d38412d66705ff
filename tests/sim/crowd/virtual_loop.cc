#include "tests/sim/crowd/virtual_loop.h"

#include <algorithm>
#include <utility>

namespace sluice::sim {

// What a dropped task holds may post again.
void VirtualLoop::DropAll() {
  free_.clear();
  while (!ready_.empty() || !posted_.empty()) {
    std::exchange(ready_, {}).clear();
    std::exchange(posted_, {}).clear();
  }
  due_.clear();
  later_.clear();
  for (std::vector<Timer>& slice : slices_) slice.clear();
  in_slices_ = 0;
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
  Place({std::max(when, now_), next_timer_++, place});
}

void VirtualLoop::Place(const Timer& timer) {
  const int64_t slice = SliceOf(timer.when);
  if (slice > slice_ && slice < slice_ + kSlices) {
    slices_[static_cast<size_t>(slice % kSlices)].push_back(timer);
    ++in_slices_;
    return;
  }
  std::vector<Timer>& heap = slice <= slice_ ? due_ : later_;
  heap.push_back(timer);
  std::push_heap(heap.begin(), heap.end());
}

const VirtualLoop::Timer* VirtualLoop::NextTimer() {
  while (due_.empty()) {
    if (in_slices_ == 0 && later_.empty()) return nullptr;
    slice_ = in_slices_ > 0 ? slice_ + 1 : SliceOf(later_.front().when);
    while (!later_.empty() && SliceOf(later_.front().when) < slice_ + kSlices) {
      std::pop_heap(later_.begin(), later_.end());
      const Timer timer = later_.back();
      later_.pop_back();
      Place(timer);
    }
    std::vector<Timer>& begins = slices_[static_cast<size_t>(slice_ % kSlices)];
    in_slices_ -= begins.size();
    due_.insert(due_.end(), begins.begin(), begins.end());
    begins = {};
    std::make_heap(due_.begin(), due_.end());
  }
  return &due_.front();
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
  const Timer* next = NextTimer();
  if (!next || next->when > end) {
    now_ = std::max(now_, end);
    return false;
  }
  now_ = next->when;
  while (!due_.empty() && due_.front().when == now_) {
    std::pop_heap(due_.begin(), due_.end());
    const uint32_t place = due_.back().place;
    due_.pop_back();
    ready_.push_back(std::move(posted_[place]));
    free_.push_back(place);
  }
  RunReady();
  return true;
}

}  // namespace sluice::sim
