#include "p2p/cluster/gate_queue.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace sluice::p2p {
namespace {

class WaitingCall final : public GateQueue::Waiting {
 public:
  WaitingCall(uint64_t bytes, Instant deadline, GateQueue::OnTurn on_turn)
      : bytes_(bytes), deadline_(deadline), on_turn_(std::move(on_turn)) {}

  uint64_t bytes() const override { return bytes_; }
  Instant deadline() const override { return deadline_; }
  FetchClass fetch_class() const override { return FetchClass::kDemand; }
  void Begin(GateQueue::Turn turn) override { std::move(on_turn_)(std::move(turn)); }
  void Fail(const absl::Status& why) override { std::move(on_turn_)(why); }

 private:
  const uint64_t bytes_;
  const Instant deadline_;
  GateQueue::OnTurn on_turn_;
};

}  // namespace

GateQueue::GateQueue(const Parts& parts, std::unique_ptr<FetchGate> gate)
    : parts_(parts), gate_(std::move(gate)) {}

void GateQueue::Turn::End(const absl::Status& status) {
  if (const std::shared_ptr<GateQueue> queue = std::exchange(queue_, nullptr))
    queue->Ended(bytes_, began_, status);
}

void GateQueue::Add(std::shared_ptr<Waiting> waiting) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(waiting));
  }
  Pump();
}

bool GateQueue::Remove(const Waiting* waiting) {
  const std::lock_guard lock(mutex_);
  return std::erase_if(queue_, [&](const auto& queued) { return queued.get() == waiting; }) > 0;
}

void GateQueue::FailAll(const absl::Status& why) {
  std::deque<std::shared_ptr<Waiting>> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(queue_);
  }
  for (const auto& one : waiting) one->Fail(why);
}

void GateQueue::Await(uint64_t bytes, Instant deadline, OnTurn on_turn) {
  Add(std::make_shared<WaitingCall>(bytes, deadline, std::move(on_turn)));
}

void GateQueue::Ended(uint64_t bytes, Instant began, const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    const Instant now = parts_.clock.Now();
    if (absl::IsCancelled(status)) {
      gate_->Cancelled(bytes, now);
    } else {
      gate_->Ended(bytes, now - began, now);
    }
  }
  Pump();
}

// Begins what may begin, ends what is too late, and looks again when that may change.
void GateQueue::Pump() {
  std::vector<std::pair<std::shared_ptr<Waiting>, bool>> begun;  // and whether it counts
  std::vector<std::shared_ptr<Waiting>> late;
  absl::Status too_late;
  const Instant now = parts_.clock.Now();
  {
    const std::lock_guard lock(mutex_);
    for (auto it = queue_.begin(); it != queue_.end();) {
      if ((*it)->deadline() > now && !gate_->LetsThrough((*it)->fetch_class())) {
        ++it;
        continue;
      }
      if ((*it)->deadline() > now) {
        begun.emplace_back(std::move(*it), false);
      } else {
        late.push_back(std::move(*it));
      }
      it = queue_.erase(it);
    }
    while (!queue_.empty()) {
      const auto next = std::min_element(queue_.begin(), queue_.end(), [](const auto& a, const auto& b) {
        return a->fetch_class() < b->fetch_class();
      });
      if (!gate_->MayBegin((*next)->begins_fill(), now)) break;
      gate_->Began((*next)->bytes(), now);
      begun.emplace_back(std::move(*next), true);
      queue_.erase(next);
    }
    if (!late.empty()) too_late = gate_->TooLate();
    ArmTimer(now);
  }
  for (const auto& waiting : late) waiting->Fail(too_late);
  for (const auto& [waiting, counted] : begun)
    waiting->Begin(Turn(counted ? shared_from_this() : nullptr, waiting->bytes(), now));
}

// REQUIRES: mutex_ is held
void GateQueue::ArmTimer(Instant now) {
  if (queue_.empty()) return;
  Instant next = gate_->LookAgainAt(now);
  for (const auto& waiting : queue_) next = std::min(next, waiting->deadline());
  if (timer_at_ > now && timer_at_ <= next) return;
  timer_at_ = next;
  parts_.io.PostAt(next, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Pump();
  });
}

}  // namespace sluice::p2p
