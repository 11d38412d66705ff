#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/chunk_source.h"
#include "node/executor.h"

namespace sluice::p2p {

// Says when something may be asked for. Pure: the clock is handed in. Not thread-safe.
class FetchGate {
 public:
  virtual ~FetchGate() = default;

  // Fetches of that class begin at once, and are not counted.
  virtual bool LetsThrough(FetchClass) const { return false; }
  // Asked of the one whose turn it is. `begins_fill`: it is a fill's, of a blob of which nothing is here.
  virtual bool MayBegin(bool begins_fill, Instant now) = 0;
  virtual void Began(uint64_t bytes, Instant now) = 0;
  // One that began has ended; it took so long.
  virtual void Ended(uint64_t bytes, Duration took, Instant now) = 0;
  // One that began was cancelled, which says nothing of its source.
  virtual void Cancelled(uint64_t bytes, Instant now) = 0;
  // When MayBegin is worth asking again, though none ends before; Instant::max() for never.
  virtual Instant LookAgainAt(Instant now) = 0;
  // What one is told whose deadline came before its turn.
  virtual absl::Status TooLate() const = 0;
};

// What waits for its turn at a gate: the more urgent first, among equals in the order of coming; never longer
// than until its deadline. Its length is bounded by who asks.
//
// Thread-safe; held by a shared_ptr. The parts outlive it.
class GateQueue : public std::enable_shared_from_this<GateQueue> {
 public:
  struct Parts {
    const Clock& clock;
    Executor& io;  // its timers
  };
  GateQueue(const Parts& parts, std::unique_ptr<FetchGate> gate);
  // What waits is Cancelled.
  ~GateQueue() { FailAll(absl::CancelledError("the node is stopping")); }

  // One's turn: until it is ended, or dropped, which is as if it was cancelled. Keeps the queue alive.
  class Turn {
   public:
    Turn(Turn&&) noexcept = default;
    Turn& operator=(Turn&&) = delete;
    ~Turn() { End(absl::CancelledError()); }
    // Idempotent.
    void End(const absl::Status& status);

   private:
    friend class GateQueue;
    Turn(std::shared_ptr<GateQueue> queue, uint64_t bytes, Instant began)
        : queue_(std::move(queue)), bytes_(bytes), began_(began) {}
    std::shared_ptr<GateQueue> queue_;  // null: it is over, or is not counted
    const uint64_t bytes_;
    const Instant began_;
  };

  // One of Begin and Fail is called once, unless it is removed before; on any thread, also in the call.
  class Waiting {
   public:
    virtual ~Waiting() = default;
    virtual uint64_t bytes() const = 0;
    virtual Instant deadline() const = 0;
    virtual FetchClass fetch_class() const = 0;
    virtual bool begins_fill() const { return false; }
    virtual void Begin(Turn turn) = 0;
    virtual void Fail(const absl::Status& why) = 0;
  };
  void Add(std::shared_ptr<Waiting> waiting);
  // False if it does not wait any more.
  bool Remove(const Waiting* waiting);
  // One may have become more urgent.
  void Pump();
  // Those that wait fail.
  void FailAll(const absl::Status& why);

  // Something that a reader waits for and that is no fetch of chunks: `on_turn` as Begin and Fail.
  using OnTurn = absl::AnyInvocable<void(absl::StatusOr<Turn>) &&>;
  void Await(uint64_t bytes, Instant deadline, OnTurn on_turn);

 private:
  void Ended(uint64_t bytes, Instant began, const absl::Status& status);
  void ArmTimer(Instant now);

  const Parts parts_;

  std::mutex mutex_;  // guards what follows
  const std::unique_ptr<FetchGate> gate_;
  std::deque<std::shared_ptr<Waiting>> queue_;
  Instant timer_at_{};
};

}  // namespace sluice::p2p
