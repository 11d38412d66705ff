#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>

#include "api/http/http_server.h"
#include "node/executor.h"

namespace sluice::api {

// How much of each file may be handed to the network next: demand before fills, and all of them together
// within a rate. Source: PEERS.md, "A request".
//
// A fill waits while a demand is being sent, but not so long that its client would take the silence for the
// end; and a demand that its client takes in slowly holds fills up for a while only. What the rate leaves,
// demands have first.
//
// Pure: the clock is handed in. Owned by the server's thread.
class SendOrder {
 public:
  static constexpr uint64_t kSliceBytes = 1 << 20;
  static constexpr uint64_t kFillSliceBytes = 64 << 10;
  static constexpr uint64_t kSliceBytesMin = 16 << 10;  // where the rate leaves less, one waits for more
  static constexpr Duration kDemandHoldsMax = std::chrono::milliseconds(500);
  static constexpr Duration kFillHeldMax = std::chrono::milliseconds(500);
  static constexpr Duration kBurst = std::chrono::milliseconds(100);  // what an idle time saves of the rate

  // `bytes_per_s`: 0 is no bound. `on_room`: fills that were held may be asked for again.
  SendOrder(uint64_t bytes_per_s, Instant now, std::function<void()> on_room);

  // A file that is being sent, from when its head is until all has been taken in. The order outlives it.
  class Turn {
   public:
    Turn(SendOrder& order, SendUrgency urgency, Instant now);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    friend class SendOrder;
    bool IsFill() const { return urgency_ == SendUrgency::kFill; }
    void SetAwaitsRate(bool awaits);

    SendOrder& order_;
    const SendUrgency urgency_;
    const Instant began_;
    Instant sent_at_;           // last, or began
    bool awaits_rate_ = false;  // a demand for which the rate leaves too little just now
  };

  // How many of the `left` bytes may be sent now. 0: not before LookAgainAt, or on_room.
  uint64_t MaySend(Turn& turn, uint64_t left, Instant now);
  void Sent(Turn& turn, uint64_t bytes, Instant now);
  Instant LookAgainAt(const Turn& turn, uint64_t left, Instant now) const;

 private:
  bool IsHeld(const Turn& turn, Instant now) const;
  uint64_t LeastBytes(uint64_t left) const;
  void Refill(Instant now);

  const uint64_t bytes_per_s_;
  const std::function<void()> on_room_;
  std::multiset<Instant> demands_;  // when those that are being sent began
  uint32_t demands_awaiting_rate_ = 0;
  double saved_;  // bytes that may be sent
  Instant saved_at_;
};

}  // namespace sluice::api
