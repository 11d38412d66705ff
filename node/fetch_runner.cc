#include "node/fetch_runner.h"

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

// A leg that is late and for which nobody else could be asked is looked at again after this.
constexpr Duration kLookAgain = std::chrono::milliseconds(100);

}  // namespace

// What a source has delivered of a leg: it may only deliver what it was asked for, and once. Thread-safe.
class FetchRunner::Inbox {
 public:
  Inbox(const ChunkGeometry& geometry, ChunkSpan asked)
      : geometry_(geometry), asked_(asked), came_(asked.count) {}

  // Whether the chunk may be taken.
  bool Take(ChunkIndex index, uint64_t length) {
    const std::lock_guard lock(mutex_);
    const bool asked_for = asked_.first <= index && index < asked_.end();
    if (!asked_for || came_[index.value() - asked_.first.value()] ||
        length != geometry_.RangeOf(index).length) {
      if (fault_.ok())
        fault_ = absl::DataLossError(absl::StrCat("the source sent ", length, " bytes as chunk ",
                                                  index.value(), ", for which it was not asked"));
      return false;
    }
    came_[index.value() - asked_.first.value()] = true;
    ++count_;
    return true;
  }
  bool Came(ChunkIndex index) const {
    const std::lock_guard lock(mutex_);
    return came_[index.value() - asked_.first.value()];
  }
  uint32_t count() const {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  absl::Status fault() const {
    const std::lock_guard lock(mutex_);
    return fault_;
  }

 private:
  const ChunkGeometry geometry_;
  const ChunkSpan asked_;
  mutable std::mutex mutex_;
  std::vector<bool> came_;
  uint32_t count_ = 0;
  absl::Status fault_;
};

// A chunk on its way from a source to the store.
struct FetchRunner::Arrival {
  LegId leg;
  std::shared_ptr<Blob> blob;
  std::shared_ptr<ChunkSource> source;
  ChunkIndex index;
  Buffer bytes;
  SenderId sender;
  Evidence evidence = Evidence::kUnverified;
  int tries = 0;
};

LegId FetchRunner::Start(LegOrder order, FetchScheduler::Slot slot) {
  const LegId id = next_id_++;
  auto running = std::make_shared<Running>();
  running->slot = std::move(slot);
  running->progress = std::make_shared<FetchProgress>(parts_.clock);
  running->inbox = std::make_shared<Inbox>(order.blob->geometry(), order.leg.chunks);
  running->started = parts_.clock.Now();
  running->wanted_count = order.leg.chunks.count;
  running->wanted.assign(order.leg.chunks.count, true);

  FetchRequest request{order.blob,  order.leg.chunks, order.fetch_class, order.deadline,
                       order.asker, order.grant,      running->progress};
  const std::shared_ptr<ChunkSource> source = order.leg.source;
  const std::shared_ptr<Inbox> inbox = running->inbox;
  running->order = std::move(order);
  const bool waited_for = running->order.fetch_class == FetchClass::kDemand;
  Running& placed = *legs_.emplace(id, std::move(running)).first->second;
  placed.handle = source->Fetch(
      std::move(request),
      [weak = weak_from_this(), inbox, source, id, blob = placed.order.blob](ChunkIndex index, Buffer bytes,
                                                                             SenderId sender) {
        const auto self = weak.lock();
        if (!self) return;
        if (!inbox->Take(index, bytes.size()))
          return source->Judge(sender, *blob, index, ChunkSource::Verdict::kWrong);
        self->Deliver(std::make_shared<Arrival>(Arrival{id, blob, source, index, std::move(bytes), sender}));
      },
      [weak = weak_from_this(), id](absl::Status status) {
        const auto self = weak.lock();
        if (!self) return;
        self->parts_.core.Post(
            [self, id, status = std::move(status)]() mutable { self->SourceDone(id, std::move(status)); });
      });
  if (waited_for) WatchFor(id, placed, placed.started);
  return id;
}

const LegOrder* FetchRunner::Find(LegId id) const {
  const auto found = legs_.find(id);
  return found == legs_.end() ? nullptr : &found->second->order;
}

void FetchRunner::Unwant(Running& running, ChunkIndex index) {
  std::vector<bool>::reference wanted =
      running.wanted[index.value() - running.order.leg.chunks.first.value()];
  if (!wanted) return;
  wanted = false;
  --running.wanted_count;
}

void FetchRunner::Disown(LegId id, ChunkIndex index) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;
  Running& running = *found->second;
  Unwant(running, index);
  // A source that has delivered all that was wanted ends by itself, and may keep its connection.
  if (running.wanted_count == 0 && !running.status && !running.inbox->Came(index))
    running.handle = FetchHandle();
}

void FetchRunner::Raise(LegId id, FetchClass fetch_class) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;
  Running& running = *found->second;
  if (fetch_class >= running.order.fetch_class) return;
  running.order.fetch_class = fetch_class;
  running.handle.Raise(fetch_class);
  if (fetch_class == FetchClass::kDemand) WatchFor(id, running, parts_.clock.Now());
}

void FetchRunner::Stop() {
  events_ = nullptr;
  // Dropping a handle may call back.
  const auto legs = std::exchange(legs_, {});
}

// On the source's thread; hashing and writing are the pool's.
void FetchRunner::Deliver(std::shared_ptr<Arrival> arrival) {
  parts_.io.Post([self = shared_from_this(), arrival = std::move(arrival)] { self->Verify(arrival); });
}

void FetchRunner::Verify(const std::shared_ptr<Arrival>& arrival) {
  const absl::StatusOr<Evidence> verdict = parts_.intake.Verify(
      *arrival->blob, arrival->index, arrival->bytes.span(), arrival->evidence, arrival->source->kind());
  if (verdict.ok() && *verdict == Evidence::kVerified) {
    arrival->source->Judge(arrival->sender, *arrival->blob, arrival->index, ChunkSource::Verdict::kRight);
  } else if (absl::IsDataLoss(verdict.status())) {
    arrival->source->Judge(arrival->sender, *arrival->blob, arrival->index, ChunkSource::Verdict::kWrong);
  }
  if (absl::IsUnavailable(verdict.status()) && ++arrival->tries < kStoreTriesMax)
    return TryAgain(arrival, &FetchRunner::Verify);
  if (!verdict.ok()) return Tell(arrival, verdict);
  arrival->evidence = *verdict;
  Store(arrival);
}

void FetchRunner::TryAgain(const std::shared_ptr<Arrival>& arrival,
                           void (FetchRunner::*step)(const std::shared_ptr<Arrival>&)) {
  parts_.io.PostAt(parts_.clock.Now() + kStoreRetry * (1 << arrival->tries),
                   [self = shared_from_this(), arrival, step] { ((*self).*step)(arrival); });
}

void FetchRunner::Store(const std::shared_ptr<Arrival>& arrival) {
  const absl::Status stored =
      parts_.intake.Commit(*arrival->blob, arrival->index, arrival->bytes.span(), arrival->evidence);
  if (stored.ok()) return Tell(arrival, arrival->evidence);
  if (absl::IsUnavailable(stored) && ++arrival->tries < kStoreTriesMax)
    return TryAgain(arrival, &FetchRunner::Store);
  // The code of wrong bytes is the verifier's alone: a store that refuses the blob says so for good.
  Tell(arrival, absl::IsDataLoss(stored) ? absl::FailedPreconditionError(stored.message()) : stored);
}

void FetchRunner::Tell(const std::shared_ptr<Arrival>& arrival, absl::StatusOr<Evidence> outcome) {
  parts_.core.Post([self = shared_from_this(), id = arrival->leg, index = arrival->index,
                    outcome = std::move(outcome)]() mutable { self->Settle(id, index, std::move(outcome)); });
}

void FetchRunner::Settle(LegId id, ChunkIndex index, absl::StatusOr<Evidence> outcome) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;                        // stopped
  const std::shared_ptr<Running> running = found->second;  // whatever the event does
  const LegOrder& order = running->order;
  ++running->settled;
  running->slot.Arrived(order.blob->geometry().RangeOf(index).length);
  Unwant(*running, index);
  if (outcome.ok()) {
    events_->ChunkStored(id, order, index, *outcome);
  } else if (absl::IsDataLoss(outcome.status())) {
    events_->ChunkWrong(id, order, index, outcome.status());
  } else {
    events_->ChunkNotStored(id, order, index, outcome.status());
  }
  EndIfOver(id);
  if (events_) events_->RoomMade();
}

void FetchRunner::SourceDone(LegId id, absl::Status status) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;
  Running& running = *found->second;
  running.delivered = running.inbox->count();
  const absl::Status fault = running.inbox->fault();
  running.status = fault.ok() ? std::move(status) : fault;
  if (running.late_at != Instant()) late_.Remove(running.late_at, id);
  running.late_at = Instant();
  EndIfOver(id);
  if (events_) events_->RoomMade();
}

void FetchRunner::EndIfOver(LegId id) {
  const auto found = legs_.find(id);
  if (found == legs_.end()) return;
  if (!found->second->status || found->second->settled < found->second->delivered) return;
  const std::shared_ptr<Running> running = std::move(found->second);
  legs_.erase(found);
  const LegProgress progress = ProgressOf(*running);
  const bool came = progress.first_byte != Instant();
  parts_.planner.Note(running->order.leg.id, running->progress->bytes(),
                      came ? progress.first_byte - progress.started : Duration(), *running->status);
  if (events_) events_->LegEnded(id, running->order, *running->status);
}

LegProgress FetchRunner::ProgressOf(const Running& running) const {
  return {running.started, running.progress->first_byte(), running.progress->last_byte()};
}

// ------------------------------------------------------------------------------------------ late legs

void FetchRunner::WatchFor(LegId id, Running& running, Instant not_before) {
  if (running.late_at != Instant() || running.status || !events_) return;
  running.late_at = parts_.planner.LateAt(running.order.leg, ProgressOf(running), not_before);
  late_.Add(running.late_at, id);
  ArmWatch();
}

void FetchRunner::ArmWatch() {
  const std::optional<Instant> when = late_.Arm();
  if (!when) return;
  parts_.core.PostAt(*when, [weak = weak_from_this(), armed = *when] {
    if (const auto self = weak.lock()) self->LookAtLate(armed);
  });
}

void FetchRunner::LookAtLate(Instant armed) {
  const Instant now = parts_.clock.Now();
  for (const LegId id : late_.TakeDue(armed, now)) {
    const auto found = legs_.find(id);
    if (found == legs_.end() || !events_) continue;
    const std::shared_ptr<Running> running = found->second;
    running->late_at = Instant();
    events_->LegLate(id, running->order, ProgressOf(*running));
    WatchFor(id, *running, now + kLookAgain);
  }
  ArmWatch();
}

}  // namespace sluice
