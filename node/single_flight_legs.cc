// What becomes of legs: what they bring, how they end, who is asked next.
#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/single_flight.h"

namespace sluice {
namespace {

// So often a chunk comes and can't be stored before those who wait for it are told.
constexpr int kStoreTriesMax = 2;
// Readers whom the sources tell that they are not there just now wait so long for the next try, while they
// have time: twice as long each time, up to the second figure.
constexpr Duration kPauseMin = std::chrono::milliseconds(500);
constexpr Duration kPauseMax = std::chrono::seconds(2);

std::string Describe(const Blob& blob, ChunkIndex index) {
  return absl::StrCat("chunk ", index.value(), " of blob ", blob.digest().ToString());
}

}  // namespace

// --------------------------------------------------------------------------------------- what comes

void SingleFlight::ChunkStored(LegId id, const LegOrder& order, ChunkIndex index, Evidence evidence,
                               const ChunkTimes& times) {
  if (order.fetch_class != FetchClass::kDemand)
    parts_.telemetry.prefetch_bytes.Add(order.blob->geometry().RangeOf(index).length);
  Arrived(order.blob, index, evidence, order.leg.source->kind(), id, times);
}

void SingleFlight::Arrived(const std::shared_ptr<Blob>& blob, ChunkIndex index, Evidence evidence,
                           SourceKind kind, LegId brought_by, const ChunkTimes& times) {
  if (stopped_) return;
  const auto asked_as = brought_by == kNoLeg ? std::nullopt : std::optional(times.asked_as);
  for (ChunkObserver* const observer : parts_.observers) observer->Came(*blob, index, asked_as, kind);
  if (parts_.bulk) parts_.bulk->Committed(blob, index);
  const std::optional<WantedChunk> chunk = table_.Close(*blob, index);
  if (!chunk) return;
  for (const LegId leg : chunk->legs) {
    if (leg == brought_by) continue;
    const bool stalled = runner_->IsStalled(leg);
    if (stalled || leg < brought_by) runner_->Find(leg)->leg.source->NoteOutrun(stalled);
    runner_->Disown(leg, index);
  }
  if (evidence == Evidence::kUnverified && !chunk->waiters.empty())
    parts_.telemetry.unverified_served_bytes.Add(blob->geometry().RangeOf(index).length);
  for (const ReadId id : chunk->waiters) parts_.waiters.ChunkCame(id, kind, times);
  for (const ReadId id : chunk->joined) parts_.waiters.ChunkCame(id, kind, times);
}

// The leg is done with the chunk. Whether nobody else brings it now.
bool SingleFlight::LeaveLeg(const std::shared_ptr<Blob>& blob, ChunkIndex index, LegId id) {
  WantedChunk* const chunk = table_.Find(*blob, index);
  if (!chunk || !chunk->EndLeg(id)) return false;
  if (chunk->legs.empty()) return true;
  // What is left may be what was asked of a third node.
  if (chunk->asker != Asker::kLocal) AskByOwnRight(blob, index);
  KeepJoined(*chunk, *blob, index, [&](ReadMode mode) { return MayBeJoined(*chunk, index, mode); });
  return false;
}

void SingleFlight::ChunkWrong(LegId id, const LegOrder& order, ChunkIndex index, const absl::Status& why) {
  WantedChunk* const chunk = table_.Find(*order.blob, index);
  if (chunk) chunk->tried.Failed(order.leg.id);
  // It blames nobody by itself: the chunk or the recipe may be wrong.
  if (chunk && order.leg.source->kind() == SourceKind::kPeer) chunk->tried.Doubt();
  if (chunk) chunk->NoteError(order.leg.rank, why);
  if (LeaveLeg(order.blob, index, id)) Retry(order.blob, {index});
}

void SingleFlight::ChunkNotStored(LegId id, const LegOrder& order, ChunkIndex index,
                                  const absl::Status& why) {
  WantedChunk* const chunk = table_.Find(*order.blob, index);
  // It says more about why the chunk can't be had than any source does.
  if (chunk) chunk->NoteError(SourceRank::kLastResort, why);
  if (chunk) chunk->source_away = false;
  if (!LeaveLeg(order.blob, index, id)) return;
  const bool final = absl::IsFailedPrecondition(why) || absl::IsNotFound(why);
  const bool again = ++chunk->store_tries < kStoreTriesMax && !final;
  if (again) {
    Retry(order.blob, {index});
  } else {
    NobodyLeft(order.blob, {index});
  }
}

void SingleFlight::LegEnded(LegId id, const LegOrder& order, const absl::Status& status) {
  std::vector<ChunkIndex> again;
  const ChunkSpan chunks = order.leg.chunks;
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    WantedChunk* const chunk = table_.Find(*order.blob, index);
    if (!chunk || std::find(chunk->legs.begin(), chunk->legs.end(), id) == chunk->legs.end()) continue;
    NoteEnd(*chunk, order,
            status.ok()
                ? absl::InternalError(absl::StrCat("the source said that it was done but did not deliver ",
                                                   Describe(*order.blob, index)))
                : status);
    if (LeaveLeg(order.blob, index, id)) again.push_back(index);
  }
  if (!again.empty()) Retry(order.blob, again);
}

void SingleFlight::NoteEnd(WantedChunk& chunk, const LegOrder& order, const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      // A member that refuses says that each is to ask for itself.
      if (order.leg.source->kind() == SourceKind::kOrigin && RefuseGrant(chunk, order, status)) return;
      [[fallthrough]];
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
      chunk.tried.Lacks(order.leg.id);
      break;
    case absl::StatusCode::kDeadlineExceeded:
      // One that ended with its readers' time says nothing to those who have time left.
      if (order.deadline > Now()) chunk.tried.Failed(order.leg.id);
      break;
    default:
      chunk.tried.Failed(order.leg.id);
  }
  chunk.source_away |= absl::IsUnavailable(status);
  chunk.NoteError(order.leg.rank, status);
}

// Whether others wait who have another right than the one that was refused: these alone are told.
bool SingleFlight::RefuseGrant(WantedChunk& chunk, const LegOrder& order, const absl::Status& status) {
  PruneWaiters(chunk);
  const auto refused = std::stable_partition(chunk.waiters.begin(), chunk.waiters.end(), [&](ReadId id) {
    return parts_.reads.Find(id)->grant != order.grant;
  });
  if (refused == chunk.waiters.begin()) return false;
  for (auto id = refused; id != chunk.waiters.end(); ++id) failed_.emplace_back(*id, status);
  chunk.waiters.erase(refused, chunk.waiters.end());
  return true;
}

void SingleFlight::LegLate(LegId id, const LegOrder& order, const LegProgress& progress) {
  DropStale(id, order);
  // For what nobody reads another is worth asking when nothing comes for long.
  if (order.fetch_class != FetchClass::kDemand && !planner_.IsStalled(progress, Now())) return;
  for (const LateRun& run : LateRuns(id, order)) {
    if (run.other == kNoLeg) {
      HedgeRun(run, order, progress);
    } else {
      ReplaceSilent(run, id);
    }
  }
}

// Who has only joined waits for nothing that is silent, stalled or broken off, and alone keeps none of them.
void SingleFlight::DropStale(LegId id, const LegOrder& order) {
  const ChunkSpan chunks = order.leg.chunks;
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    WantedChunk* const chunk = table_.Find(*order.blob, index);
    if (!chunk || chunk->joined.empty()) continue;
    if (std::find(chunk->legs.begin(), chunk->legs.end(), id) == chunk->legs.end()) continue;
    PruneWaiters(*chunk);
    KeepJoined(*chunk, *order.blob, index, [&](ReadMode mode) { return MayBeJoined(*chunk, index, mode); });
    if (chunk->waiters.empty() && chunk->joined.empty()) GiveUp(*order.blob, index);
  }
}

// What of a late leg is to be treated alike.
SingleFlight::LateRunList SingleFlight::LateRuns(LegId id, const LegOrder& order) {
  LateRunList runs;
  const ChunkSpan chunks = order.leg.chunks;
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    WantedChunk* const chunk = table_.Find(*order.blob, index);
    if (!chunk || std::find(chunk->legs.begin(), chunk->legs.end(), id) == chunk->legs.end()) continue;
    // Nobody else is asked for those who have only joined.
    PruneWaiters(*chunk);
    if (chunk->waiters.empty()) continue;
    const LegId other = chunk->OtherThan(id);
    if (!runs.empty() && runs.back().chunks.end() == index && runs.back().other == other &&
        runs.back().tried == chunk->tried) {
      ++runs.back().chunks.count;
    } else {
      runs.push_back({{index, 1}, other, chunk->tried});
    }
  }
  return runs;
}

void SingleFlight::HedgeRun(const LateRun& run, const LegOrder& order, const LegProgress& progress) {
  offers_.clear();
  parts_.sources.Offers(*order.blob, run.chunks, order.fetch_class, order.asker, order.grant, &offers_);
  Leg late = order.leg;
  late.chunks = run.chunks;
  std::optional<TakeoverReason> takeover;
  if (planner_.IsStalled(progress, Now())) takeover = TakeoverReason::kStalled;
  if (SourcePlanner::IsSilent(progress, Now())) takeover = TakeoverReason::kSilent;
  while (std::optional<Leg> second = planner_.Hedge(late, progress, run.tried, offers_, Now())) {
    if (takeover) parts_.telemetry.takeovers[static_cast<size_t>(*takeover)].Add();
    late.chunks = late.chunks.From(second->chunks.end());
    StartBeside(order, *std::move(second), takeover ? Beside::kTakeover : Beside::kHedge);
  }
}

// Of two that are silent the one that has been so for longer makes room for a third.
void SingleFlight::ReplaceSilent(const LateRun& run, LegId id) {
  const std::optional<Instant> since = runner_->SilentSince(id);
  const std::optional<Instant> other_since = runner_->SilentSince(run.other);
  if (!since || !other_since) return;
  const bool other_first = *other_since < *since;
  const LegId dropped = other_first ? run.other : id;
  const LegOrder order = *runner_->Find(dropped);
  const SourceId stays = runner_->Find(other_first ? id : run.other)->leg.id;
  offers_.clear();
  parts_.sources.Offers(*order.blob, run.chunks, order.fetch_class, order.asker, order.grant, &offers_);
  Leg silent = order.leg;
  silent.chunks = run.chunks;
  while (std::optional<Leg> third = planner_.Replace(silent, stays, run.tried, offers_)) {
    silent.chunks = silent.chunks.From(third->chunks.end());
    DropSilent(order, dropped, third->chunks);
    parts_.telemetry.takeovers[static_cast<size_t>(TakeoverReason::kSilent)].Add();
    StartBeside(order, *std::move(third), Beside::kTakeover);
  }
  for (ChunkIndex index = run.chunks.first; index < run.chunks.end(); index = index.next()) {
    if (table_.Find(*order.blob, index)->asker != Asker::kLocal) AskByOwnRight(order.blob, index);
  }
}

void SingleFlight::DropSilent(const LegOrder& order, LegId id, ChunkSpan chunks) {
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    WantedChunk& chunk = *table_.Find(*order.blob, index);
    chunk.EndLeg(id);
    NoteEnd(chunk, order,
            absl::UnavailableError(absl::StrCat("the source of ", Describe(*order.blob, index),
                                                " was silent and another was asked")));
    runner_->Disown(id, index);
  }
}

// A leg by the same right as another of its chunks.
void SingleFlight::StartBeside(const LegOrder& order, Leg leg, Beside why) {
  const ChunkSpan chunks = leg.chunks;
  Group group{chunks, order.asker, order.grant, order.deadline, nullptr};
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next())
    group.deadline = std::max(group.deadline, GroupOf(*table_.Find(*order.blob, index), index).deadline);
  StartLeg(order.blob, group, std::move(leg), order.fetch_class,
           scheduler_.Take(order.blob, chunks, order.fetch_class), why);
}

// ---------------------------------------------------------------------------------------- trying again

void SingleFlight::Retry(const std::shared_ptr<Blob>& blob, const std::vector<ChunkIndex>& chunks) {
  std::array<ChunkRuns, kFetchClassCount> runs;
  for (const ChunkIndex index : chunks) {
    WantedChunk* const chunk = table_.Find(*blob, index);
    PruneWaiters(*chunk);
    if (chunk->waiters.empty()) {
      FailJoined(*chunk, *blob, index);
      table_.Close(*blob, index);
      continue;
    }
    // What flowed has ended; by own right it is asked of the next.
    KeepJoined(*chunk, *blob, index, [](ReadMode mode) { return mode == ReadMode::kIfUnderWay; });
    chunk->state = WantedChunk::State::kQueued;
    chunk->fetch_class = FetchClass::kBackfill;
    for (const ReadId id : chunk->waiters)
      chunk->fetch_class = std::min(chunk->fetch_class, parts_.reads.Find(id)->fetch_class);
    AppendChunk(runs[static_cast<size_t>(chunk->fetch_class)], index);
  }
  for (size_t i = 0; i < runs.size(); ++i) Queue(blob, runs[i], static_cast<FetchClass>(i));
}

// No source may be asked for them, or the store does not take them.
void SingleFlight::NobodyLeft(const std::shared_ptr<Blob>& blob, const std::vector<ChunkIndex>& chunks) {
  std::vector<ChunkIndex> later;
  for (const ChunkIndex index : chunks) {
    WantedChunk* const chunk = table_.Find(*blob, index);
    if (!chunk) continue;
    FailJoined(*chunk, *blob, index);
    PruneWaiters(*chunk);
    if (chunk->error.ok())
      chunk->error = absl::UnavailableError(absl::StrCat("nobody can be asked for ", Describe(*blob, index)));
    if (chunk->asker != Asker::kLocal) {
      RefusePeers(*chunk, chunk->ErrorForNodes());
      Retry(blob, {index});
      continue;
    }
    if (chunk->MayComeLater() && !blob->refused() && DemandDeadline(*chunk) > Now() + kPauseMin) {
      later.push_back(index);
    } else {
      const std::optional<WantedChunk> closed = table_.Close(*blob, index);
      for (const ReadId id : closed->waiters) failed_.emplace_back(id, closed->error);
    }
  }
  if (!later.empty()) PauseChunks(blob, std::move(later));
}

// Other nodes are told at once: they have others to ask. Whoever reads on this host, or in this zone, may
// wait for a third node.
void SingleFlight::RefusePeers(WantedChunk& chunk, const absl::Status& why) {
  const Asker refused = chunk.asker;
  const auto peers = std::stable_partition(chunk.waiters.begin(), chunk.waiters.end(),
                                           [&](ReadId id) { return parts_.reads.Find(id)->asker < refused; });
  for (auto id = peers; id != chunk.waiters.end(); ++id) failed_.emplace_back(*id, why);
  chunk.waiters.erase(peers, chunk.waiters.end());
  chunk.asker = LastAsker(chunk);
}

void SingleFlight::PauseChunks(const std::shared_ptr<Blob>& blob, std::vector<ChunkIndex> chunks) {
  const PauseId id = next_pause_++;
  Duration length = kPauseMin;
  Instant latest = Now();
  for (const ChunkIndex index : chunks) {
    WantedChunk& chunk = *table_.Find(*blob, index);
    chunk.state = WantedChunk::State::kPaused;
    chunk.pause = id;
    length = std::max(length, std::min(kPauseMax, kPauseMin * (1 << std::min(chunk.pauses++, 8))));
    latest = std::max(latest, DemandDeadline(chunk));
  }
  // The last try is to come before the deadline.
  length = std::max(kPauseMin, std::min(length, latest - Now() - kPauseMin));
  pauses_.emplace(id, Pause{blob, std::move(chunks)});
  parts_.core.PostAt(Now() + length, [self = self_, id] {
    if (*self) (*self)->EndPause(id);
  });
}

void SingleFlight::EndPause(PauseId id) {
  const auto found = pauses_.find(id);
  if (found == pauses_.end()) return;
  const Pause pause = std::move(found->second);
  pauses_.erase(found);
  std::vector<ChunkIndex> again;
  for (const ChunkIndex index : pause.chunks) {
    WantedChunk* const chunk = table_.Find(*pause.blob, index);
    if (!chunk || chunk->state != WantedChunk::State::kPaused || chunk->pause != id) continue;
    const bool in_doubt = chunk->tried.in_doubt();
    chunk->tried = TriedSources();
    if (in_doubt) chunk->tried.Doubt();
    chunk->store_tries = 0;
    chunk->error = absl::OkStatus();
    chunk->source_away = false;
    again.push_back(index);
  }
  Retry(pause.blob, again);
  Pump();
}

void SingleFlight::OffersChanged(const Digest& digest) {
  std::vector<PauseId> of_blob;
  for (const auto& [id, pause] : pauses_) {
    if (pause.blob->digest() == digest) of_blob.push_back(id);
  }
  std::sort(of_blob.begin(), of_blob.end());
  for (const PauseId id : of_blob) EndPause(id);
}

}  // namespace sluice
