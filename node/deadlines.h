#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "node/executor.h"

namespace sluice {

// Many instants and one timer: the owner keeps a timer set for the earliest of them.
//
// What is not waited for any more is not looked for: it goes when it has become the earliest, or when there
// is more of it than of the rest. Most of what waits goes in the order in which it came, so that costs
// little.
//
// Not thread-safe.
template <typename Id>
class Deadlines {
 public:
  // So many that are not waited for any more are kept though nothing is waited for.
  static constexpr size_t kStaleMax = 64;

  void Add(Instant when, Id id) {
    entries_.emplace_back(when, id);
    std::push_heap(entries_.begin(), entries_.end(), std::greater<>());
  }

  // Something is not waited for any more: `is_live` says what still is, `live_count` how much that is.
  template <typename IsLive>
  void Prune(size_t live_count, const IsLive& is_live) {
    if (entries_.size() > 2 * live_count + kStaleMax) {
      std::erase_if(entries_, [&](const auto& entry) { return !is_live(entry.second); });
      std::make_heap(entries_.begin(), entries_.end(), std::greater<>());
    }
    while (!entries_.empty() && !is_live(entries_.front().second)) TakeEarliest();
  }

  // When a timer is to be set for; nothing if one that is early enough is set.
  std::optional<Instant> Arm() {
    if (entries_.empty()) return std::nullopt;
    const Instant earliest = entries_.front().first;
    if (armed_ && *armed_ <= earliest) return std::nullopt;
    armed_ = earliest;
    return earliest;
  }

  // The timer that was set for `armed` has gone off: takes out what is due, the earliest first, and what was
  // due but is not waited for any more. Nothing if another was set since, for an earlier instant: that one
  // arms the next.
  std::vector<Id> TakeDue(Instant armed, Instant now) {
    std::vector<Id> due;
    if (armed_ != armed) return due;
    armed_.reset();
    while (!entries_.empty() && entries_.front().first <= now) due.push_back(TakeEarliest());
    return due;
  }

  size_t size() const { return entries_.size(); }

 private:
  Id TakeEarliest() {
    std::pop_heap(entries_.begin(), entries_.end(), std::greater<>());
    const Id id = entries_.back().second;
    entries_.pop_back();
    return id;
  }

  std::vector<std::pair<Instant, Id>> entries_;  // a heap, the earliest first
  std::optional<Instant> armed_;
};

}  // namespace sluice
