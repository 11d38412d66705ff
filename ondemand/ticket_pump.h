#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/read_ticket.h"

namespace sluice::ondemand {

// Takes the slots that the keeper publishes in its journal, and hands them out as tickets: any number at
// once. The first round also takes what a dead predecessor has left.
class TicketPump {
 public:
  // Called on the pump's thread. Must not block.
  using OnTicket = absl::AnyInvocable<void(ReadTicket)>;

  using Done = absl::AnyInvocable<void(absl::Status) &&>;
  // What a door does with the bytes, once they are in the store, before the read is answered: calls its
  // argument once, on any thread. Called on any thread, also after Stop().
  using Deliver = std::function<void(const keeper::SlotRead&, Done)>;

  // `completion_fd` is the keeper's eventfd; it is duplicated. Tickets keep the journal, the duplicate and
  // `deliver`, which may be empty, alive.
  TicketPump(std::shared_ptr<keeper::Journal> journal, int completion_fd, OnTicket on_ticket,
             Deliver deliver = nullptr);
  ~TicketPump() { Stop(); }
  TicketPump(const TicketPump&) = delete;
  TicketPump& operator=(const TicketPump&) = delete;

  // Hands out no more tickets when it returns. Idempotent. Not from within on_ticket.
  void Stop();

 private:
  void Run();
  void TakeSubmitted();
  void TakeAll();
  void TakeSlot(uint32_t index);

  const std::shared_ptr<keeper::Journal> journal_;
  const std::shared_ptr<const keeper::Descriptor> completions_;
  OnTicket on_ticket_;
  const std::shared_ptr<const Deliver> deliver_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace sluice::ondemand
