#pragma once

#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "node/executor.h"

namespace sluice {

// Many instants and one timer: the owner keeps a timer set for the earliest of them.
//
// Not thread-safe.
template <typename Id>
class Deadlines {
 public:
  void Add(Instant when, Id id) {
    // Where all have the same time, the next is the last.
    entries_.emplace_hint(entries_.end(), when, id);
  }
  void Remove(Instant when, Id id) { entries_.erase({when, id}); }

  // When a timer is to be set for; nothing if one that is early enough is set.
  std::optional<Instant> Arm() {
    if (entries_.empty()) return std::nullopt;
    const Instant earliest = entries_.begin()->first;
    if (armed_ && *armed_ <= earliest) return std::nullopt;
    armed_ = earliest;
    return earliest;
  }

  // The timer that was set for `armed` has gone off: takes out what is due. Nothing if another was set since,
  // for an earlier instant: that one arms the next.
  std::vector<Id> TakeDue(Instant armed, Instant now) {
    std::vector<Id> due;
    if (armed_ != armed) return due;
    armed_.reset();
    while (!entries_.empty() && entries_.begin()->first <= now) {
      due.push_back(entries_.begin()->second);
      entries_.erase(entries_.begin());
    }
    return due;
  }

 private:
  std::set<std::pair<Instant, Id>> entries_;
  std::optional<Instant> armed_;
};

}  // namespace sluice
