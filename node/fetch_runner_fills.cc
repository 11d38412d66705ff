// Legs of fills beside those that readers wait for.
#include <utility>

#include "node/fetch_runner_leg.h"

namespace sluice {

void FetchRunner::ReaderSeen() {
  fills_.ReaderSeen(parts_.clock.Now());
  fills_changed_ = true;
}

// On the source's thread.
FetchProgress::OnChange FetchRunner::OnFillChange() {
  return [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->parts_.core.Post([weak] {
      if (const auto runner = weak.lock()) runner->FillChanged();
    });
  };
}

void FetchRunner::FillChanged() {
  fills_changed_ = true;
  if (events_) events_->RoomMade();
}

// There may be hundreds of fills, and it is asked for each chunk: they are looked at only where it matters.
FillFlows::UnderWay FetchRunner::UnderWay() const {
  FillFlows::UnderWay under_way;
  if (demand_count_ == 0 && !fills_.IsReaderNear(parts_.clock.Now())) return under_way;
  for (const auto& [id, running] : legs_) {
    const FetchClass fetch_class = running->order.fetch_class;
    if (running->status || running->yielded || running->wanted_count == 0) continue;
    if (fetch_class == FetchClass::kDemand) under_way.reader_waits = true;
    const bool has_come = running->inbox.count() == running->order.leg.chunks.count;
    if (IsFill(fetch_class) && !has_come) under_way.fills.push_back({id, ProgressOf(*running)});
  }
  return under_way;
}

bool FetchRunner::MayStartFill() {
  return fills_.MayStart(UnderWay(), parts_.clock.Now());
}

Instant FetchRunner::FillsLookAt() const {
  return fills_.LookAgainAt(UnderWay(), parts_.clock.Now());
}

std::vector<LegId> FetchRunner::FillsInTheWay() {
  if (!std::exchange(fills_changed_, false)) return {};
  return fills_.WithoutPlace(UnderWay(), parts_.clock.Now());
}

std::vector<ChunkIndex> FetchRunner::Yield(LegId id) {
  Running& running = *legs_.at(id);
  running.yielded = true;
  std::vector<ChunkIndex> left;
  const ChunkSpan chunks = running.order.leg.chunks;
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    if (!running.inbox.Came(index) && Unwant(running, index)) left.push_back(index);
  }
  running.handle = FetchHandle();
  return left;
}

bool FetchRunner::IsBehind(LegId id, ChunkIndex index) const {
  const auto found = legs_.find(id);
  if (found == legs_.end() || !IsFill(found->second->order.fetch_class)) return false;
  const Running& running = *found->second;
  return index.value() - running.order.leg.chunks.first.value() > running.inbox.count();
}

}  // namespace sluice
