#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "node/executor.h"

namespace sluice::sim {

// One thread and one clock for all nodes of a simulation: what is posted runs in the order of posting, and
// time passes only when nothing is left to run. What takes processor time takes no virtual time.
class VirtualLoop final : public Clock {
 public:
  // Of one node; what is left of it is dropped once the node is dead.
  class Node final : public Executor {
   public:
    explicit Node(VirtualLoop& loop) : loop_(loop) {}
    void Post(Task task) override {
      if (!dead_) loop_.ready_.push_back({this, std::move(task)});
    }
    void PostAt(Instant when, Task task) override {
      if (!dead_) loop_.Arm(when, {this, std::move(task)});
    }
    void Die() { dead_ = true; }
    bool dead() const { return dead_; }

   private:
    friend class VirtualLoop;
    VirtualLoop& loop_;
    bool dead_ = false;
  };

  VirtualLoop() : world_(*this) {}
  ~VirtualLoop() override { DropAll(); }

  Instant Now() const override { return now_; }
  // Of what belongs to no node: links, and what the simulation itself does.
  Executor& world() { return world_; }
  // Runs what is due until `end`, or until `over` says so, which is asked between tasks of different times.
  template <typename Over>
  void RunUntil(Instant end, const Over& over) {
    while (!over() && Step(end)) {
    }
  }
  // Of what is left nothing is run.
  void DropAll();

 private:
  struct Posted {
    Node* node;
    Task task;
  };
  struct Timer {
    Instant when;
    uint64_t number;
    uint32_t place;  // in posted_
    bool operator<(const Timer& other) const {
      return when != other.when ? when > other.when : number > other.number;
    }
  };
  // Millions of timers are set and run in the order of their time: far ones lie in slices of it, unsorted,
  // until their slice begins.
  static constexpr Duration kSlice = std::chrono::microseconds(250);
  static constexpr int64_t kSlices = 1 << 14;
  static int64_t SliceOf(Instant when) { return when.time_since_epoch() / kSlice; }

  void Arm(Instant when, Posted posted);
  void Place(const Timer& timer);
  // Null: there is none.
  const Timer* NextTimer();
  void RunReady();
  // Runs what is posted, then what is due next. False if that is not before `end`.
  bool Step(Instant end);

  Instant now_{std::chrono::hours(1)};
  Node world_;
  std::deque<Posted> ready_;
  int64_t slice_ = SliceOf(now_);
  std::vector<Timer> due_;                                   // a heap: of this slice and earlier ones
  std::vector<std::vector<Timer>> slices_{size_t{kSlices}};  // of the next kSlices - 1, by number modulo that
  size_t in_slices_ = 0;
  std::vector<Timer> later_;  // a heap
  std::vector<Posted> posted_;
  std::vector<uint32_t> free_;  // places in posted_
  uint64_t next_timer_ = 0;
};

}  // namespace sluice::sim
