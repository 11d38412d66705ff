#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "node/source_directory.h"

namespace sluice {

// What became of asking the sources for one chunk, since it was last asked for from the beginning.
class TriedSources {
 public:
  // A source is asked for a chunk so often before it counts as failed.
  static constexpr int kAttemptsMax = 2;

  // It said that it lacks the chunk, or will not give it: no failure, but not asked again.
  void Lacks(SourceId id) { Of(id).lacks = true; }
  void Failed(SourceId id) { ++Of(id).attempts; }
  // A member sent it wrong: the registry is asked before all others, for what it gives says who is wrong.
  void Doubt() { in_doubt_ = true; }
  bool in_doubt() const { return in_doubt_; }
  bool MayAsk(SourceId id) const;
  bool WasAsked(SourceId id) const { return Find(id) != nullptr; }
  int attempts(SourceId id) const;

  friend bool operator==(const TriedSources&, const TriedSources&) = default;

 private:
  struct Tried {
    SourceId id{};
    int attempts = 0;
    bool lacks = false;
    friend bool operator==(const Tried&, const Tried&) = default;
  };
  Tried& Of(SourceId id);
  const Tried* Find(SourceId id) const;

  std::vector<Tried> tried_;  // few
  bool in_doubt_ = false;
};

// Chunks that are asked of one source, in one request.
struct Leg {
  SourceId id{};
  SourceRank rank = SourceRank::kOrigin;
  std::shared_ptr<ChunkSource> source;
  ChunkSpan chunks;
};

// How a leg has come along.
struct LegProgress {
  Instant started;
  Instant first_byte;  // Instant() before it came
  Instant last_byte;
  Instant first_sign = {};  // that it lives
  Instant last_sign = {};
  bool patience = false;  // the origin has asked for it
  FetchClass fetch_class = FetchClass::kDemand;

  // Nothing has come since.
  Instant quiet_since() const { return std::max({started, last_byte, last_sign}); }
};

// Which source is asked for which chunk, and when another is asked beside it. Pure: it is handed the clock,
// and what it knows of sources it was told by Note.
//
// Owned by the core loop. Not thread-safe.
class SourcePlanner {
 public:
  // A source that is silent for so long has failed for all that matters: the next is asked as well.
  static constexpr Duration kSilence = std::chrono::milliseconds(1500);
  // One that has given only signs of life for so long is asked in vain, perhaps: another may be asked as
  // well, once. Source: PEERS.md, "Who may ask the origin".
  static constexpr Duration kFirstByteBudget = std::chrono::seconds(5);
  // So many times as long it has for what no reader waits for: where many ask for the same, each gets its
  // first byte late, and another that fetches it would cost the registry one copy more.
  static constexpr int kFillPatience = 4;
  // No source is late before that.
  static constexpr Duration kLateMin = std::chrono::milliseconds(50);
  // So many requests in a hundred may be hedged, and so many at once after a quiet time.
  static constexpr int kHedgePercent = 5;
  static constexpr int kHedgesSaved = 8;
  static constexpr size_t kSourcesMax = 4096;  // remembered
  // A round trip that takes no longer is not worth chunks that nobody asked for.
  static constexpr Duration kTripMin = std::chrono::milliseconds(5);
  static constexpr uint64_t kTripsSeen = 4;  // before it is known; the first ones waited for a connection

  explicit SourcePlanner(Duration first_byte_budget = kFirstByteBudget)
      : first_byte_budget_(first_byte_budget) {}

  // Cuts the span into legs, in its order, in place of what is in `legs`: each chunk is asked of the source
  // that was asked least for it so far (of the registry first, if it is in doubt), among these of the lowest
  // rank, among these of one that has not failed the last times, and of the quickest to answer. What nobody
  // may be asked for is left out. REQUIRES: all chunks of the span have `tried`
  void Plan(ChunkSpan span, const TriedSources& tried, std::span<const SourceOffer> offers,
            std::vector<Leg>* legs);

  static bool IsSilent(const LegProgress& progress, Instant now) {
    return now - progress.quiet_since() >= kSilence;
  }
  // So is one of several chunks of which some have come, and the others only give signs.
  bool IsStalled(const LegProgress& progress, Instant now) const {
    return !progress.patience && StalledAt(progress) <= now;
  }

  // Who is to be asked now beside a leg that is late. A hedge, when the first byte takes longer than it does
  // in 95 of 100 cases of that source: of somebody who has the chunks, within a budget. A takeover, when it
  // is silent: of anybody; or stalled: once, of the next by rank that fetches, but not at the very last.
  // Where nobody has all of the chunks, as many of them in a row as one has, from the first that somebody
  // has. Nobody: look again at LateAt.
  std::optional<Leg> Hedge(const Leg& late, const LegProgress& progress, const TriedSources& tried,
                           std::span<const SourceOffer> offers, Instant now);
  // Who is to be asked in place of a leg that is silent, of chunks whose other leg, `other`, is silent too:
  // of whom none of them was asked yet, for chunks as Hedge says. Nobody: both keep their places.
  std::optional<Leg> Replace(const Leg& silent, SourceId other, const TriedSources& tried,
                             std::span<const SourceOffer> offers) const;
  // When Hedge is worth asking next; not before `now`.
  Instant LateAt(const Leg& leg, const LegProgress& progress, Instant now) const;

  // What came of a leg.
  struct LegResult {
    uint64_t bytes = 0;
    Duration first_byte{};  // from when it was asked; zero if none came
    Duration rest{};        // from there to the last byte
    uint32_t chunks = 0;    // that came whole
    bool goes_on = false;   // its first byte was on its way before
  };
  // A leg has ended. One that is silent is noted as failed when that is seen, for it may be cancelled in the
  // end.
  void Note(SourceId id, const LegResult& result, const absl::Status& status);
  // How many chunks a source sends in the time that its first byte takes at best, which no busy moment
  // lengthens; 0 if that is not known, or too short to matter.
  uint32_t ChunksPerTrip(SourceId id) const;

 private:
  // What the last legs of one source came to.
  struct History {
    static constexpr size_t kKept = 32;
    std::array<Duration, kKept> first_bytes{};  // how long the first byte took
    uint64_t count = 0;                         // of first bytes, ever
    Duration typical{};                         // the median, zero if unknown
    Duration quickest{};                        // of those that are kept
    Duration late_after = kSilence;             // longer than 95 of 100
    Duration per_chunk{};                       // of late, without the first byte's; zero if unknown
    int failures_in_a_row = 0;
  };
  static constexpr int kIllFailures = 3;

  // When it is, if nothing comes until then.
  Instant StalledAt(const LegProgress& progress) const;
  History& HistoryOf(SourceId id);
  Duration LateAfter(SourceId id) const;
  // In which order sources that were asked equally often are asked.
  using Preference = std::tuple<SourceRank, bool, Duration, SourceId>;
  Preference PreferenceOf(const SourceOffer& offer) const;
  // The best offer for the chunk; null if there is none.
  const SourceOffer* Best(ChunkIndex index, const TriedSources& tried,
                          std::span<const SourceOffer> offers) const;
  // The first chunks of the span that somebody has, as many as one has; nothing if nobody has any.
  std::optional<Leg> BestPart(ChunkSpan span, const TriedSources& tried,
                              std::span<const SourceOffer> offers) const;

  // Whether one that comes after the late one was asked to fetch them already.
  static bool WasTakenOver(const Leg& late, const TriedSources& tried, std::span<const SourceOffer> offers);

  const Duration first_byte_budget_;
  absl::flat_hash_map<SourceId, History> histories_;
  int hedge_credit_ = kHedgesSaved * 100;  // in hundredths of a hedge
};

}  // namespace sluice
