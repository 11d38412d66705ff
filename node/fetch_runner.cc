#include "node/fetch_runner.h"

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "node/chunk_flow.h"
#include "node/fetch_runner_leg.h"

namespace sluice {
namespace {

// A leg that is late and for which nobody else could be asked is looked at again after this.
constexpr Duration kLookAgain = std::chrono::milliseconds(100);
constexpr Duration kLookAgainAtFill = std::chrono::seconds(1);  // which may wait here for its turn, too

}  // namespace

// A chunk on its way from a source to the store.
struct FetchRunner::Arrival {
  std::shared_ptr<FetchRunner> runner;
  std::shared_ptr<Inbox> inbox;
  ChunkIndex index;
  Buffer bytes;
  SenderId sender;
  absl::StatusOr<Evidence> outcome = Evidence::kUnverified;
  int tries = 0;
  Instant came{}, verified{};
};

LegId FetchRunner::Start(LegOrder order, FetchScheduler::Slot slot) {
  const LegId id = next_id_++;
  FetchProgress::OnChange on_change;
  if (IsFill(order.fetch_class)) on_change = OnFillChange();
  const auto running = std::make_shared<Running>(weak_from_this(), id, std::move(order), std::move(slot),
                                                 parts_.clock, std::move(on_change), OnBreak(id));
  legs_.emplace(id, running);

  const LegOrder& placed = running->order;
  const std::shared_ptr<Inbox> inbox(running, &running->inbox);
  running->handle = inbox->source.Fetch(
      {placed.blob, placed.leg.chunks, placed.fetch_class, placed.deadline, placed.asker, placed.grant,
       std::shared_ptr<FetchProgress>(inbox, &inbox->progress), parts_.flows},
      [inbox](ChunkIndex index, Buffer bytes, SenderId sender) {
        Deliver(inbox, index, std::move(bytes), sender);
      },
      [inbox](absl::Status status) {
        const auto self = inbox->runner.lock();
        if (!self) return;
        inbox->Close(std::move(status));
        self->parts_.core.Post([inbox] {
          if (const auto runner = inbox->runner.lock()) runner->SourceDone(inbox->leg);
        });
      });
  const bool is_demand = placed.fetch_class == FetchClass::kDemand;
  if (is_demand) {
    ++demand_count_;
    fills_changed_ = true;
  }
  // A registry that gives nothing has its own bounds.
  if (is_demand || placed.leg.source->kind() == SourceKind::kPeer) WatchFor(*running, running->started);
  if (placed.for_reader) ReaderSeen();
  return id;
}

const LegOrder* FetchRunner::Find(LegId id) const {
  const auto found = legs_.find(id);
  return found == legs_.end() ? nullptr : &found->second->order;
}

std::optional<Instant> FetchRunner::SilentSince(LegId id) const {
  const auto found = legs_.find(id);
  if (found == legs_.end() || found->second->status) return std::nullopt;
  const LegProgress progress = ProgressOf(*found->second);
  if (!SourcePlanner::IsSilent(progress, parts_.clock.Now())) return std::nullopt;
  return progress.quiet_since();
}

bool FetchRunner::Flows(LegId id, ChunkIndex index) const {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return false;
  const Running& running = *found->second;
  if (running.inbox.Came(index)) return true;
  const bool one_after_the_other = running.order.leg.source->kind() == SourceKind::kOrigin;
  if (running.order.leg.chunks.count > 1 && !one_after_the_other) return false;
  const FetchProgress& progress = running.inbox.progress;
  return progress.flows() && !running.status &&
         parts_.clock.Now() - progress.last_byte() < SourcePlanner::kSilence;
}

// On the source's thread.
FetchProgress::OnChange FetchRunner::OnBreak(LegId id) {
  return [weak = weak_from_this(), id] {
    const auto self = weak.lock();
    if (!self) return;
    self->parts_.core.Post([weak, id] {
      const auto runner = weak.lock();
      if (!runner || !runner->events_) return;
      const auto found = runner->legs_.find(id);
      if (found == runner->legs_.end() || found->second->status) return;
      const std::shared_ptr<Running> running = found->second;
      runner->events_->LegBroke(id, running->order);
      if (runner->events_) runner->events_->RoomMade();
    });
  };
}

void FetchRunner::Watch(LegId id) {
  const auto found = legs_.find(id);
  if (found != legs_.end()) WatchFor(*found->second, parts_.clock.Now());
}

bool FetchRunner::IsStalled(LegId id) const {
  const auto found = legs_.find(id);
  return found != legs_.end() && !found->second->status &&
         parts_.planner.IsStalled(ProgressOf(*found->second), parts_.clock.Now());
}

bool FetchRunner::ComesByOwnRight(LegId id) const {
  const auto found = legs_.find(id);
  return found != legs_.end() && !MayWaitForOthers(found->second->order.leg.rank) && !SilentSince(id) &&
         !parts_.planner.IsStalled(ProgressOf(*found->second), parts_.clock.Now());
}

// Whether it was wanted.
bool FetchRunner::Unwant(Running& running, ChunkIndex index) {
  const uint32_t position = index.value() - running.order.leg.chunks.first.value();
  const uint64_t bit = uint64_t{1} << (position % 64);
  if ((running.wanted[position / 64] & bit) == 0) return false;
  running.wanted[position / 64] &= ~bit;
  if (--running.wanted_count == 0 && running.order.for_reader) ReaderSeen();
  return true;
}

void FetchRunner::Disown(LegId id, ChunkIndex index) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;
  Running& running = *found->second;
  Unwant(running, index);
  CancelIfUnwanted(running);
}

void FetchRunner::CancelIfUnwanted(Running& running) {
  if (running.wanted_count > 0 || running.status) return;
  // A source that has delivered all that it was asked for ends by itself, and may keep its connection.
  const uint32_t asked = running.order.leg.chunks.count;
  if (running.settled < asked && running.inbox.count() < asked) running.handle = FetchHandle();
}

void FetchRunner::Raise(LegId id, FetchClass fetch_class) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;
  Running& running = *found->second;
  if (fetch_class >= running.order.fetch_class) return;
  running.order.fetch_class = fetch_class;
  running.handle.Raise(fetch_class);
  if (fetch_class != FetchClass::kDemand) return;
  ++demand_count_;
  fills_changed_ = true;
  running.late_at = Instant();  // sooner than what nobody reads
  WatchFor(running, parts_.clock.Now());
}

void FetchRunner::ReaderJoins(LegId id) {
  const auto found = legs_.find(id);
  if (found == legs_.end() || found->second->order.fetch_class != FetchClass::kDemand) return;
  found->second->order.for_reader = true;
  ReaderSeen();
}

void FetchRunner::Stop() {
  events_ = nullptr;
  demand_count_ = 0;
  // Dropping a handle may call back.
  for (const auto& [id, running] : std::exchange(legs_, {})) LetGo(*running);
}

// On the source's thread; hashing and writing are the pool's.
void FetchRunner::Deliver(const std::shared_ptr<Inbox>& inbox, ChunkIndex index, Buffer bytes,
                          SenderId sender) {
  const auto self = inbox->runner.lock();
  if (!self) return;
  if (!inbox->Take(index, bytes.size()))
    return inbox->source.Judge(sender, *inbox->blob, index, ChunkSource::Verdict::kWrong);
  auto arrival = std::make_shared<Arrival>(Arrival{self, inbox, index, std::move(bytes), sender});
  arrival->came = self->parts_.clock.Now();
  self->parts_.io.Post([arrival = std::move(arrival)] { Verify(arrival); });
}

void FetchRunner::Verify(const std::shared_ptr<Arrival>& arrival) {
  const Blob& blob = *arrival->inbox->blob;
  ChunkSource& source = arrival->inbox->source;
  arrival->outcome = arrival->runner->parts_.intake.Verify(blob, arrival->index, arrival->bytes.span(),
                                                           Evidence::kUnverified, source.kind());
  if (arrival->outcome.ok() && *arrival->outcome == Evidence::kVerified) {
    source.Judge(arrival->sender, blob, arrival->index, ChunkSource::Verdict::kRight);
  } else if (arrival->outcome.ok()) {
    source.KeptUnproven(arrival->sender, blob, arrival->index, arrival->bytes.span());
  } else if (absl::IsDataLoss(arrival->outcome.status())) {
    source.Judge(arrival->sender, blob, arrival->index, ChunkSource::Verdict::kWrong);
  }
  if (MayTryAgain(*arrival, arrival->outcome.status())) return TryAgain(arrival, &FetchRunner::Verify);
  if (ChunkFlows* const flows = arrival->runner->parts_.flows)
    flows->Judge(blob.key(), arrival->index, arrival->bytes.span(), arrival->outcome.ok());
  if (!arrival->outcome.ok()) return Tell(arrival);
  arrival->verified = arrival->runner->parts_.clock.Now();
  Store(arrival);
}

void FetchRunner::Store(const std::shared_ptr<Arrival>& arrival) {
  const absl::Status stored = arrival->runner->parts_.intake.Commit(*arrival->inbox->blob, arrival->index,
                                                                    arrival->bytes.span(), *arrival->outcome);
  if (MayTryAgain(*arrival, stored)) return TryAgain(arrival, &FetchRunner::Store);
  if (!stored.ok()) {
    // The code of wrong bytes is the verifier's alone: a store that refuses the blob says so for good.
    arrival->outcome = absl::IsDataLoss(stored) ? absl::FailedPreconditionError(stored.message()) : stored;
  }
  Tell(arrival);
}

bool FetchRunner::MayTryAgain(Arrival& arrival, const absl::Status& status) {
  return absl::IsUnavailable(status) && ++arrival.tries < kStoreTriesMax;
}

void FetchRunner::TryAgain(const std::shared_ptr<Arrival>& arrival,
                           void (*step)(const std::shared_ptr<Arrival>&)) {
  const Parts& parts = arrival->runner->parts_;
  parts.io.PostAt(parts.clock.Now() + kStoreRetry * (1 << arrival->tries),
                  [arrival, step] { step(arrival); });
}

void FetchRunner::Tell(const std::shared_ptr<Arrival>& arrival) {
  arrival->bytes = Buffer();
  arrival->runner->parts_.core.Post([arrival] { arrival->runner->Settle(*arrival); });
}

void FetchRunner::Settle(const Arrival& arrival) {
  const LegId id = arrival.inbox->leg;
  const ChunkIndex index = arrival.index;
  const absl::StatusOr<Evidence>& outcome = arrival.outcome;
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;                        // stopped
  const std::shared_ptr<Running> running = found->second;  // whatever the event does
  const LegOrder& order = running->order;
  ++running->settled;
  running->slot.Arrived(order.blob->geometry().RangeOf(index).length);
  const bool wanted = Unwant(*running, index);
  if (outcome.ok()) {
    if (wanted) ++running->brought;
    const Instant first_byte = running->inbox.progress.first_byte();
    events_->ChunkStored(id, order, index, *outcome,
                         {running->started, first_byte, arrival.came, arrival.verified, running->begun_as});
  } else if (absl::IsDataLoss(outcome.status())) {
    events_->ChunkWrong(id, order, index, outcome.status());
  } else {
    events_->ChunkNotStored(id, order, index, outcome.status());
  }
  CancelIfUnwanted(*running);
  if (IsOver(*running)) End(id);
  if (events_) events_->RoomMade();
}

void FetchRunner::SourceDone(LegId id) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;
  Running& running = *found->second;
  std::tie(running.delivered, running.status) = running.inbox.Outcome();
  if (IsOver(running)) End(id);
  if (events_) events_->RoomMade();
}

bool FetchRunner::IsOver(const Running& running) {
  return running.status && running.settled >= running.delivered;
}

void FetchRunner::End(LegId id) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;
  const std::shared_ptr<Running> running = std::move(found->second);
  legs_.erase(found);
  if (running->order.fetch_class == FetchClass::kDemand) --demand_count_;
  const LegProgress progress = ProgressOf(*running);
  const bool came = progress.first_byte != Instant();
  SourcePlanner::LegResult result{.bytes = running->inbox.progress.bytes(),
                                  .chunks = running->delivered,
                                  .goes_on = running->inbox.progress.goes_on()};
  if (came) {
    result.first_byte = progress.first_byte - progress.started;
    result.rest = progress.last_byte - progress.first_byte;
  }
  parts_.planner.Note(running->order.leg.id, result, *running->status);
  LetGo(*running);
  if (running->order.is_hedge) NoteHedge(*running);
  if (events_ && running->wanted_count > 0) events_->LegEnded(id, running->order, *running->status);
}

void FetchRunner::NoteHedge(const Running& running) {
  const HedgeResult result = running.brought > 0        ? HedgeResult::kWon
                             : running.wanted_count > 0 ? HedgeResult::kFailed
                                                        : HedgeResult::kLost;
  parts_.telemetry.hedges[static_cast<size_t>(result)].Add();
}

// Whoever holds it otherwise may go on for a while.
void FetchRunner::LetGo(Running& running) {
  running.handle = FetchHandle();
  running.slot = FetchScheduler::Slot();
}

LegProgress FetchRunner::ProgressOf(const Running& running) {
  const FetchProgress& progress = running.inbox.progress;
  return {running.started,      progress.first_byte(), progress.last_byte(),     progress.first_sign(),
          progress.last_sign(), progress.patience(),   running.order.fetch_class};
}

// ------------------------------------------------------------------------------------------ late legs

void FetchRunner::WatchFor(Running& running, Instant not_before) {
  if (running.late_at != Instant() || running.status || !events_) return;
  running.late_at = parts_.planner.LateAt(running.order.leg, ProgressOf(running), not_before);
  if (running.late_at < watch_at_) ArmWatch(running.late_at);
}

void FetchRunner::ArmWatch(Instant when) {
  watch_at_ = when;
  parts_.core.PostAt(when, [weak = weak_from_this(), when] {
    const auto self = weak.lock();
    // Another timer may have been set since, for an earlier instant: it sets the next.
    if (self && self->watch_at_ == when) self->LookForLate();
  });
}

void FetchRunner::NoteIfSilent(Running& running, Instant now) {
  const LegProgress progress = ProgressOf(running);
  // What no reader waits for may wait here before its source is asked.
  const bool asked = progress.fetch_class == FetchClass::kDemand || progress.last_sign != Instant() ||
                     progress.first_byte != Instant();
  if (running.noted_silent || !asked || !SourcePlanner::IsSilent(progress, now)) return;
  running.noted_silent = true;
  parts_.planner.Note(running.order.leg.id, {}, absl::DeadlineExceededError("the source is silent"));
}

// There are never more legs than slots, so looking at all of them costs less than keeping them in order.
void FetchRunner::LookForLate() {
  const Instant now = parts_.clock.Now();
  watch_at_ = Instant::max();
  std::vector<LegId> late;
  Instant next = Instant::max();
  for (const auto& [id, running] : legs_) {
    if (running->late_at == Instant() || running->status) continue;
    if (running->late_at <= now) {
      late.push_back(id);
    } else {
      next = std::min(next, running->late_at);
    }
  }
  if (next != Instant::max()) ArmWatch(next);
  std::sort(late.begin(), late.end());
  for (const LegId id : late) {
    const auto found = legs_.find(id);
    if (found == legs_.end() || !events_) continue;
    const std::shared_ptr<Running> running = found->second;
    running->late_at = Instant();
    NoteIfSilent(*running, now);
    events_->LegLate(id, running->order, ProgressOf(*running));
    const bool is_demand = running->order.fetch_class == FetchClass::kDemand;
    WatchFor(*running, now + (is_demand ? kLookAgain : kLookAgainAtFill));
  }
  if (events_) events_->RoomMade();
}

}  // namespace sluice
