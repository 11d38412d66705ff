#include "node/single_flight.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

std::string Describe(const Blob& blob, ChunkIndex index) {
  return absl::StrCat("chunk ", index.value(), " of blob ", blob.digest().ToString());
}

// Whether more may soon be read by whoever reads that: of a runtime's pull only the beginning is demand.
bool IsForReader(const PendingRead& read) {
  return read.fetch_class == FetchClass::kDemand && read.asker != Asker::kRuntime;
}

absl::Status NotComing(const Blob& blob, ChunkIndex index) {
  return absl::NotFoundError(absl::StrCat(Describe(blob, index), " is neither here nor coming"));
}

}  // namespace

void AppendChunk(ChunkRuns& runs, ChunkIndex index) {
  if (!runs.empty() && runs.back().end() == index) {
    ++runs.back().count;
  } else {
    runs.push_back({index, 1});
  }
}

SingleFlight::SingleFlight(const Parts& parts, FetchScheduler::Limits limits)
    : parts_(parts),
      table_(&parts.telemetry.chunks_wanted),
      scheduler_(parts.clock, limits, &parts.telemetry),
      planner_(parts.first_byte_budget),
      runner_(std::make_shared<FetchRunner>(
          FetchRunner::Parts{parts.clock, parts.core, parts.io, parts.intake, planner_, parts.telemetry,
                             parts.fill_flows, parts.flows},
          static_cast<LegEvents&>(*this))),
      self_(std::make_shared<SingleFlight*>(this)) {}

SingleFlight::~SingleFlight() {
  Stop();
}

void SingleFlight::Stop() {
  stopped_ = true;
  *self_ = nullptr;
  runner_->Stop();
  pauses_.clear();
}

// ------------------------------------------------------------------------------------------- wanting

void SingleFlight::Join(ReadId id, PendingRead& read, ChunkIndex index, ChunkRuns& to_start) {
  const std::shared_ptr<Blob>& blob = read.blob;
  const auto [chunk, is_new] = table_.Open(blob, index, read.fetch_class);
  if (is_new && parts_.sources.IsInDoubt(*blob, index)) chunk->tried.Doubt();
  const bool raised = read.fetch_class < chunk->fetch_class;
  bool asked_beside = false;
  if (raised) {
    chunk->fetch_class = read.fetch_class;
    asked_beside = !RaiseLegs(*chunk, index, read.fetch_class);
  }
  if (is_new || (raised && chunk->state == WantedChunk::State::kQueued)) AppendChunk(to_start, index);
  ++read.outstanding;
  const Asker right = RightOf(read.asker);
  if (right != Asker::kLocal && chunk->state == WantedChunk::State::kPaused) {
    // It has others to ask, now.
    failed_.emplace_back(id, chunk->ErrorForNodes());
    return;
  }
  chunk->waiters.push_back(id);
  const bool awaits_less = right > chunk->asker;
  if (awaits_less) chunk->asker = right;
  if (asked_beside) AskBesideFill(blob, index);
  if (IsForReader(read)) {
    for (const LegId leg : chunk->legs) runner_->ReaderJoins(leg);
  }
  if (awaits_less && chunk->state == WantedChunk::State::kUnderWay) AskByOwnRight(blob, index);
}

// Whether one of them serves who wants it now: a reader is not served by a fill that has much else to bring
// before.
bool SingleFlight::RaiseLegs(const WantedChunk& chunk, ChunkIndex index, FetchClass fetch_class) {
  bool serves = chunk.legs.empty();
  for (const LegId leg : chunk.legs) {
    if (fetch_class == FetchClass::kDemand && runner_->IsBehind(leg, index)) continue;
    runner_->Raise(leg, fetch_class);
    serves = true;
  }
  return serves;
}

void SingleFlight::AskBesideFill(const std::shared_ptr<Blob>& blob, ChunkIndex index) {
  WantedChunk& chunk = *table_.Find(*blob, index);
  const Group group = GroupOf(chunk, index);
  offers_.clear();
  parts_.sources.Offers(*blob, group.chunks, chunk.fetch_class, group.asker, group.grant, &offers_);
  legs_.clear();
  if (chunk.legs.size() < WantedChunk::kLegsMax) planner_.Plan(group.chunks, chunk.tried, offers_, &legs_);
  if (legs_.empty()) {
    for (const LegId leg : chunk.legs) runner_->Raise(leg, chunk.fetch_class);
    return;
  }
  StartLeg(blob, group, std::move(legs_.front()), chunk.fetch_class,
           scheduler_.Take(blob, group.chunks, chunk.fetch_class));
}

void SingleFlight::JoinOthers(ReadId id, PendingRead& read, ChunkIndex index) {
  ++read.outstanding;
  WantedChunk* const chunk = table_.Find(*read.blob, index);
  if (chunk && MayBeJoined(*chunk, index, read.mode)) {
    chunk->joined.push_back(id);
    // Whoever has joined is told when nothing comes any more, whoever else waits.
    for (const LegId leg : chunk->legs) runner_->Watch(leg);
  } else {
    failed_.emplace_back(id, NotComing(*read.blob, index));
  }
}

bool SingleFlight::MayBeJoined(const WantedChunk& chunk, ChunkIndex index, ReadMode mode) const {
  if (mode == ReadMode::kIfAskedFor) return true;
  return std::any_of(chunk.legs.begin(), chunk.legs.end(), [&](LegId leg) {
    return runner_->Flows(leg, index) || (mode == ReadMode::kIfUnderWay && runner_->ComesByOwnRight(leg));
  });
}

void SingleFlight::Queue(const std::shared_ptr<Blob>& blob, const ChunkRuns& runs, FetchClass fetch_class) {
  for (const ChunkSpan& run : runs) scheduler_.Push(blob, run, fetch_class);
}

void SingleFlight::Forget(ReadId id, const Blob& blob, ChunkSpan chunks) {
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    WantedChunk* const chunk = table_.Find(blob, index);
    if (!chunk || !chunk->Leave(id)) continue;
    PruneWaiters(*chunk);
    // Who has joined keeps what is under way, and no more.
    const bool kept = chunk->state == WantedChunk::State::kUnderWay && !chunk->joined.empty();
    if (!chunk->waiters.empty() || kept) continue;
    GiveUp(blob, index);
  }
}

// Nobody wants the chunk any more.
void SingleFlight::GiveUp(const Blob& blob, ChunkIndex index) {
  FailJoined(*table_.Find(blob, index), blob, index);
  const std::optional<WantedChunk> closed = table_.Close(blob, index);
  for (const LegId leg : closed->legs) runner_->Disown(leg, index);
}

void SingleFlight::PruneWaiters(WantedChunk& chunk) const {
  const auto answered = [&](ReadId id) { return parts_.reads.Find(id) == nullptr; };
  chunk.waiters.erase(std::remove_if(chunk.waiters.begin(), chunk.waiters.end(), answered),
                      chunk.waiters.end());
  chunk.joined.erase(std::remove_if(chunk.joined.begin(), chunk.joined.end(), answered), chunk.joined.end());
}

Asker SingleFlight::LastAsker(const WantedChunk& chunk) const {
  Asker last = Asker::kLocal;
  for (const ReadId id : chunk.waiters) last = std::max(last, RightOf(parts_.reads.Find(id)->asker));
  return last;
}

Instant SingleFlight::DemandDeadline(const WantedChunk& chunk) const {
  Instant latest = Now();
  for (const ReadId id : chunk.waiters) {
    const PendingRead& read = *parts_.reads.Find(id);
    if (read.fetch_class == FetchClass::kDemand) latest = std::max(latest, read.deadline);
  }
  return latest;
}

bool SingleFlight::ReaderWaits(const Blob& blob, ChunkSpan chunks) {
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    for (const ReadId id : table_.Find(blob, index)->waiters) {
      const PendingRead* const read = parts_.reads.Find(id);
      if (read && IsForReader(*read)) return true;
    }
  }
  return false;
}

uint32_t SingleFlight::ChunksPerTrip(const PendingRead& read) {
  const ChunkSpan chunks = read.chunks();
  offers_.clear();
  parts_.sources.Offers(*read.blob, chunks, read.fetch_class, read.asker, read.grant, &offers_);
  if (offers_.empty() || std::any_of(offers_.begin(), offers_.end(), [](const SourceOffer& offer) {
        return offer.rank != SourceRank::kOrigin;
      }))
    return 0;
  return planner_.ChunksPerTrip(offers_.front().id);
}

// ------------------------------------------------------------------------------------------ starting

void SingleFlight::Pump() {
  while (!stopped_) {
    YieldFills();
    if (!failed_.empty()) TellFailed();
    std::optional<FetchScheduler::Start> start = scheduler_.Pop(FillsNow());
    if (!start) return;
    if (start->run.work) {
      parts_.waiters.StartWork(*std::move(start));
    } else {
      StartRuns(start->run.blob, {start->run.chunks}, start->run.fetch_class, std::move(start->slot));
    }
  }
}

// Whether fills may start. If they have something to start and may not, it is looked again in time.
FetchScheduler::Fills SingleFlight::FillsNow() {
  if (!scheduler_.HasFills() || runner_->MayStartFill()) return FetchScheduler::Fills::kMayStart;
  const Instant when = runner_->FillsLookAt();
  if (when < fills_look_at_) {
    fills_look_at_ = when;
    parts_.core.PostAt(when, [self = self_, when] {
      if (!*self || (*self)->fills_look_at_ != when) return;
      (*self)->fills_look_at_ = Instant::max();
      (*self)->Pump();
    });
  }
  return FetchScheduler::Fills::kWait;
}

// What flows beside readers beyond what may is asked for again when its turn comes.
void SingleFlight::YieldFills() {
  for (const LegId id : runner_->FillsInTheWay()) {
    const std::shared_ptr<Blob> blob = runner_->Find(id)->blob;
    std::vector<ChunkIndex> again;
    for (const ChunkIndex index : runner_->Yield(id)) {
      if (LeaveLeg(blob, index, id)) again.push_back(index);
    }
    if (!again.empty()) Retry(blob, again);
  }
}

// What they have joined has failed, or is given up.
void SingleFlight::FailJoined(WantedChunk& chunk, const Blob& blob, ChunkIndex index) {
  KeepJoined(chunk, blob, index, [](ReadMode) { return false; });
}

// Others are told that it does not come.
void SingleFlight::KeepJoined(WantedChunk& chunk, const Blob& blob, ChunkIndex index,
                              absl::FunctionRef<bool(ReadMode)> which) {
  const auto is_kept = [&](ReadId id) {
    const PendingRead* const read = parts_.reads.Find(id);
    return read && which(read->mode);
  };
  const auto lost = std::stable_partition(chunk.joined.begin(), chunk.joined.end(), is_kept);
  for (auto id = lost; id != chunk.joined.end(); ++id) failed_.emplace_back(*id, NotComing(blob, index));
  chunk.joined.erase(lost, chunk.joined.end());
}

// Not where they fail: who is told may take anything out of the tables.
void SingleFlight::TellFailed() {
  while (!failed_.empty()) {
    for (const auto& [id, status] : std::exchange(failed_, {})) parts_.waiters.ChunkFailed(id, status);
  }
}

void SingleFlight::StartRuns(const std::shared_ptr<Blob>& blob, const ChunkRuns& runs, FetchClass fetch_class,
                             FetchScheduler::Slot slot) {
  for (const ChunkSpan& run : runs) {
    for (const Group& group : Startable(blob, run, fetch_class)) StartGroup(blob, group, fetch_class, &slot);
  }
}

// Of what was queued some has come, some is wanted by nobody any more, some has been taken into a higher
// class.
SingleFlight::Groups SingleFlight::Startable(const std::shared_ptr<Blob>& blob, ChunkSpan chunks,
                                             FetchClass fetch_class) {
  Groups groups;
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    WantedChunk* const chunk = table_.Find(*blob, index);
    if (!chunk || chunk->state != WantedChunk::State::kQueued || chunk->fetch_class != fetch_class) continue;
    Group group = GroupOf(*chunk, index);
    if (chunk->waiters.empty()) {
      FailJoined(*chunk, *blob, index);
      table_.Close(*blob, index);
      continue;
    }
    if (!groups.empty() && groups.back().TakesIn(group)) {
      ++groups.back().chunks.count;
      groups.back().deadline = std::max(groups.back().deadline, group.deadline);
    } else {
      groups.push_back(std::move(group));
    }
  }
  return groups;
}

// The chunk alone, as those who wait for it want it. Forgets those that have been answered meanwhile.
SingleFlight::Group SingleFlight::GroupOf(WantedChunk& chunk, ChunkIndex index) const {
  Group group{{index, 1}, chunk.asker, nullptr, Instant(), &chunk.tried};
  bool is_first = true;
  const auto left = std::remove_if(chunk.waiters.begin(), chunk.waiters.end(), [&](ReadId id) {
    const PendingRead* const read = parts_.reads.Find(id);
    if (!read) return true;
    if (std::exchange(is_first, false)) group.grant = read->grant;
    group.deadline = std::max(group.deadline, read->deadline);
    return false;
  });
  chunk.waiters.erase(left, chunk.waiters.end());
  return group;
}

void SingleFlight::StartGroup(const std::shared_ptr<Blob>& blob, const Group& group, FetchClass fetch_class,
                              FetchScheduler::Slot* slot) {
  offers_.clear();
  parts_.sources.Offers(*blob, group.chunks, fetch_class, group.asker, group.grant, &offers_);
  legs_.clear();
  if (!blob->refused()) planner_.Plan(group.chunks, *group.tried, offers_, &legs_);
  std::vector<ChunkIndex> left;
  ChunkIndex next = group.chunks.first;
  for (Leg& leg : legs_) {
    for (; next < leg.chunks.first; next = next.next()) left.push_back(next);
    next = leg.chunks.end();
    const ChunkSpan chunks = leg.chunks;
    if (leg.rank == SourceRank::kStandIn || leg.rank == SourceRank::kSecondStandIn)
      parts_.telemetry.takeovers[static_cast<size_t>(TakeoverReason::kFailed)].Add();
    StartLeg(blob, group, std::move(leg), fetch_class,
             slot->CutTo(blob->geometry().RangeOf(chunks).length)
                 ? std::exchange(*slot, FetchScheduler::Slot())
                 : scheduler_.Take(blob, chunks, fetch_class));
  }
  for (; next < group.chunks.end(); next = next.next()) left.push_back(next);
  if (!left.empty()) NobodyLeft(blob, left);
}

void SingleFlight::StartLeg(const std::shared_ptr<Blob>& blob, const Group& group, Leg leg,
                            FetchClass fetch_class, FetchScheduler::Slot slot, Beside why) {
  const ChunkSpan chunks = leg.chunks;
  // Below demand the time begins now; a reader's ran while the chunk was queued.
  const Instant deadline = fetch_class == FetchClass::kDemand ? group.deadline : Now() + parts_.fetch_timeout;
  const LegId id = runner_->Start({std::move(leg), blob, fetch_class, group.asker, group.grant, deadline,
                                   why == Beside::kHedge, ReaderWaits(*blob, chunks)},
                                  std::move(slot));
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    WantedChunk* const chunk = table_.Find(*blob, index);
    chunk->state = WantedChunk::State::kUnderWay;
    chunk->legs.push_back(id);
    KeepJoined(*chunk, *blob, index, [&](ReadMode mode) { return MayBeJoined(*chunk, index, mode); });
    if (!chunk->joined.empty()) runner_->Watch(id);
  }
}

// Another node waits for a chunk that this node has asked of a third, for which it may not wait: it gets a
// leg that it may wait for, or is refused.
void SingleFlight::AskByOwnRight(const std::shared_ptr<Blob>& blob, ChunkIndex index) {
  WantedChunk& chunk = *table_.Find(*blob, index);
  const bool waits_for_a_node = std::all_of(chunk.legs.begin(), chunk.legs.end(), [&](LegId leg) {
    const LegOrder* const order = runner_->Find(leg);
    return order && order->asker < chunk.asker && order->leg.source->kind() == SourceKind::kPeer &&
           !MayAwait(chunk.asker, order->leg.rank);
  });
  if (!waits_for_a_node) return;
  PruneWaiters(chunk);
  Group group{{index, 1}, chunk.asker, nullptr, Instant(), &chunk.tried};
  bool is_first = true;
  for (const ReadId id : chunk.waiters) {
    const PendingRead& read = *parts_.reads.Find(id);
    if (read.asker != chunk.asker) continue;
    if (std::exchange(is_first, false)) group.grant = read.grant;
    group.deadline = std::max(group.deadline, read.deadline);
  }
  if (is_first) {
    chunk.asker = LastAsker(chunk);
    return;
  }
  offers_.clear();
  parts_.sources.Offers(*blob, group.chunks, chunk.fetch_class, chunk.asker, group.grant, &offers_);
  legs_.clear();
  if (chunk.legs.size() < WantedChunk::kLegsMax) planner_.Plan(group.chunks, chunk.tried, offers_, &legs_);
  if (legs_.empty()) {
    RefusePeers(chunk, absl::NotFoundError(absl::StrCat("nobody who has ", Describe(*blob, index),
                                                        " can be asked on behalf of another node")));
    return;
  }
  StartLeg(blob, group, std::move(legs_.front()), chunk.fetch_class,
           scheduler_.Take(blob, group.chunks, chunk.fetch_class));
}

}  // namespace sluice
