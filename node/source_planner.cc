#include "node/source_planner.h"

#include <algorithm>
#include <cstddef>
#include <tuple>

namespace sluice {
namespace {

bool Has(const SourceOffer& offer, ChunkIndex index) {
  return offer.has.first <= index && index < offer.has.end();
}

// Whether it gets what it does not have.
bool Fetches(SourceRank rank) {
  return rank != SourceRank::kHedge && rank != SourceRank::kHolder && rank != SourceRank::kLateHolder;
}

// First bytes between two looks at what is typical.
constexpr uint64_t kRecalculated = 8;

// Whoever else is asked for what is in doubt may be the one who is wrong.
bool IsLater(const TriedSources& tried, const SourceOffer& offer) {
  return tried.in_doubt() && offer.rank != SourceRank::kOrigin && offer.rank != SourceRank::kLastResort;
}

// How many of the span's chunks it has, from the first on.
uint32_t CountFrom(ChunkSpan span, const SourceOffer& offer) {
  if (!Has(offer, span.first)) return 0;
  return std::min(offer.has.end(), span.end()).value() - span.first.value();
}

}  // namespace

const TriedSources::Tried* TriedSources::Find(SourceId id) const {
  const auto found = std::find_if(tried_.begin(), tried_.end(), [&](const Tried& t) { return t.id == id; });
  return found == tried_.end() ? nullptr : &*found;
}

TriedSources::Tried& TriedSources::Of(SourceId id) {
  const auto found = std::find_if(tried_.begin(), tried_.end(), [&](const Tried& t) { return t.id == id; });
  if (found != tried_.end()) return *found;
  tried_.push_back({.id = id});
  return tried_.back();
}

bool TriedSources::MayAsk(SourceId id) const {
  const Tried* const tried = Find(id);
  return !tried || (!tried->lacks && tried->attempts < kAttemptsMax);
}

int TriedSources::attempts(SourceId id) const {
  const Tried* const tried = Find(id);
  return tried ? tried->attempts : 0;
}

Duration SourcePlanner::LateAfter(SourceId id) const {
  const auto found = histories_.find(id);
  // Of a source that has not answered yet nothing is known: only its silence says something.
  return found == histories_.end() ? kSilence : found->second.late_after;
}

SourcePlanner::Preference SourcePlanner::PreferenceOf(const SourceOffer& offer) const {
  const auto history = histories_.find(offer.id);
  const bool known = history != histories_.end();
  const bool ill = known && history->second.failures_in_a_row >= kIllFailures;
  return {offer.rank, ill, known ? history->second.typical : Duration(), offer.id};
}

const SourceOffer* SourcePlanner::Best(ChunkIndex index, const TriedSources& tried,
                                       std::span<const SourceOffer> offers) const {
  const SourceOffer* best = nullptr;
  const auto order = [&](const SourceOffer& offer) {
    return std::tuple(IsLater(tried, offer), tried.attempts(offer.id), PreferenceOf(offer));
  };
  for (const SourceOffer& offer : offers) {
    if (!Has(offer, index) || !tried.MayAsk(offer.id)) continue;
    if (!best || order(offer) < order(*best)) best = &offer;
  }
  return best;
}

void SourcePlanner::Plan(ChunkSpan span, const TriedSources& tried, std::span<const SourceOffer> offers,
                         std::vector<Leg>* legs) {
  legs->clear();
  for (ChunkIndex index = span.first; index < span.end();) {
    const SourceOffer* const best = Best(index, tried, offers);
    // Up to where one of the offers begins or ends, the choice stays the same.
    ChunkIndex end = span.end();
    for (const SourceOffer& offer : offers) {
      if (offer.has.first > index) end = std::min(end, offer.has.first);
      if (offer.has.end() > index) end = std::min(end, offer.has.end());
    }
    const uint32_t count = end.value() - index.value();
    if (best && !legs->empty() && legs->back().id == best->id && legs->back().chunks.end() == index) {
      legs->back().chunks.count += count;
    } else if (best) {
      legs->push_back({best->id, best->rank, best->source, {index, count}});
    }
    index = end;
  }
  hedge_credit_ =
      std::min(hedge_credit_ + kHedgePercent * static_cast<int>(legs->size()), kHedgesSaved * 100);
}

// What no reader waits for may wait here, too, before its source is asked.
Instant SourcePlanner::StalledAt(const LegProgress& progress) const {
  if (progress.fetch_class == FetchClass::kDemand)
    return std::max(progress.started, progress.last_byte) + first_byte_budget_;
  const Instant answered = std::max(progress.first_sign, progress.last_byte);
  return answered == Instant() ? Instant::max() : answered + kFillPatience * first_byte_budget_;
}

Instant SourcePlanner::LateAt(const Leg& leg, const LegProgress& progress, Instant now) const {
  Instant next = progress.quiet_since() + kSilence;
  const Instant late = progress.started + LateAfter(leg.id);
  if (progress.first_byte == Instant() && late > now) next = std::min(next, late);
  const Instant stalled = StalledAt(progress);
  if (stalled > now) next = std::min(next, stalled);
  return std::max(now, next);
}

std::optional<Leg> SourcePlanner::BestPart(ChunkSpan span, const TriedSources& tried,
                                           std::span<const SourceOffer> offers) const {
  for (; span.count > 0; span = span.From(span.first.next())) {
    const SourceOffer* best = nullptr;
    const auto order = [&](const SourceOffer& offer) {
      const uint32_t lacking = span.count - CountFrom(span, offer);
      return std::tuple(IsLater(tried, offer), tried.attempts(offer.id), lacking, PreferenceOf(offer));
    };
    for (const SourceOffer& offer : offers) {
      if (!Has(offer, span.first) || !tried.MayAsk(offer.id)) continue;
      if (!best || order(offer) < order(*best)) best = &offer;
    }
    if (best) return Leg{best->id, best->rank, best->source, {span.first, CountFrom(span, *best)}};
  }
  return std::nullopt;
}

bool SourcePlanner::WasTakenOver(const Leg& late, const TriedSources& tried,
                                 std::span<const SourceOffer> offers) {
  return std::any_of(offers.begin(), offers.end(), [&](const SourceOffer& offer) {
    return offer.rank > late.rank && Fetches(offer.rank) && tried.WasAsked(offer.id);
  });
}

std::optional<Leg> SourcePlanner::Hedge(const Leg& late, const LegProgress& progress,
                                        const TriedSources& tried, std::span<const SourceOffer> offers,
                                        Instant now) {
  const bool silent = IsSilent(progress, now);
  const bool stalled = IsStalled(progress, now);
  const bool takeover = silent || stalled;
  const bool is_late = progress.first_byte == Instant() && now - progress.started >= LateAfter(late.id);
  if (!takeover && (!is_late || hedge_credit_ < 100)) return std::nullopt;
  const bool has_stand_in = std::any_of(offers.begin(), offers.end(), [](const SourceOffer& offer) {
    return offer.rank == SourceRank::kStandIn;
  });
  const bool may_stand_in = silent || (stalled && !WasTakenOver(late, tried, offers));
  const auto suits = [&](SourceRank rank) {
    // A stand-in gives what it has, too.
    if (rank == SourceRank::kHedge) return !(takeover && has_stand_in);
    if (rank == SourceRank::kHolder) return true;
    if (rank == SourceRank::kLateHolder) return takeover;
    const bool skips_one = rank == SourceRank::kSecondStandIn && late.rank != SourceRank::kStandIn;
    const bool at_the_very_last = skips_one || rank == SourceRank::kLastResort;
    return may_stand_in && (silent || !at_the_very_last);
  };
  std::vector<SourceOffer> others;
  for (const SourceOffer& offer : offers) {
    if (offer.id != late.id && suits(offer.rank)) others.push_back(offer);
  }
  std::optional<Leg> part = BestPart(late.chunks, tried, others);
  if (part && !takeover) hedge_credit_ -= 100;
  return part;
}

std::optional<Leg> SourcePlanner::Replace(const Leg& silent, SourceId other, const TriedSources& tried,
                                          std::span<const SourceOffer> offers) const {
  std::vector<SourceOffer> others;
  for (const SourceOffer& offer : offers) {
    if (offer.id != silent.id && offer.id != other && tried.attempts(offer.id) == 0) others.push_back(offer);
  }
  return BestPart(silent.chunks, tried, others);
}

SourcePlanner::History& SourcePlanner::HistoryOf(SourceId id) {
  if (histories_.size() >= kSourcesMax && !histories_.contains(id)) histories_.erase(histories_.begin());
  return histories_[id];
}

uint32_t SourcePlanner::ChunksPerTrip(SourceId id) const {
  const auto found = histories_.find(id);
  if (found == histories_.end()) return 0;
  const History& history = found->second;
  if (history.count < kTripsSeen || history.quickest < kTripMin || history.per_chunk <= Duration()) return 0;
  return static_cast<uint32_t>(std::min<int64_t>(history.quickest / history.per_chunk, UINT32_MAX));
}

void SourcePlanner::Note(SourceId id, const LegResult& result, const absl::Status& status) {
  // One that was cancelled before it answered says nothing.
  if (result.bytes == 0 && absl::IsCancelled(status)) return;
  History& history = HistoryOf(id);
  const bool failed = !status.ok() && !absl::IsNotFound(status) && !absl::IsCancelled(status);
  history.failures_in_a_row = failed ? history.failures_in_a_row + 1 : 0;
  if (result.bytes == 0) return;
  if (result.chunks > 0 && result.rest > Duration()) {
    const Duration per_chunk = result.rest / result.chunks;
    history.per_chunk = history.per_chunk == Duration() ? per_chunk : (3 * history.per_chunk + per_chunk) / 4;
  }
  if (result.goes_on) return;
  history.first_bytes[history.count++ % History::kKept] = result.first_byte;
  // Sorting costs more than a leg; a few behind does no harm.
  if (history.count > kRecalculated && history.count % kRecalculated != 0) return;
  std::array<Duration, History::kKept> sorted = history.first_bytes;
  const size_t size = std::min<size_t>(history.count, History::kKept);
  std::sort(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(size));
  history.typical = sorted[size / 2];
  history.quickest = sorted.front();
  history.late_after = std::clamp(sorted[(size - 1) * 95 / 100], kLateMin, kSilence);
}

}  // namespace sluice
