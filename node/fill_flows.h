#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/fetch_table.h"
#include "node/source_planner.h"

namespace sluice {

// How much of the link fills may take while readers wait for what comes over the same. As long as one waits
// for a chunk from elsewhere no fill's fetch flows; between two that wait, and a while after, few do, over
// all sources together. (Of a link that a fill fills, a read of 256 KiB takes 1.4 times as long beside one as
// alone, 2.1 to 2.6 times beside two, and over 36 ms of round trip 2.1 times beside one.) Where readers leave
// no time between, fills have a share of it: or a program that reads on would bring them to a stand. One that
// was asked for and has no byte yet holds a place among them, until its source says that it waits itself:
// then any number may be asked for, and which of them flows first has the place. One that is silent holds
// none, so that fills never come to a stand. Source: PEERS.md, "Fills beside reads".
//
// Pure: the clock is handed in. Owned by the core loop. Not thread-safe.
class FillFlows {
 public:
  struct Limits {
    size_t flows_max = 1;  // while readers were seen
    // So long readers have the link alone, and then share it for kShared.
    Duration alone_max = std::chrono::seconds(1);
  };
  // So long after the last reader fills are still bounded.
  static constexpr Duration kReaderKept = std::chrono::seconds(2);
  // So long after the last reader none begins to flow: the next comes, mostly.
  static constexpr Duration kQuiet = std::chrono::milliseconds(20);
  static constexpr Duration kShared = std::chrono::milliseconds(500);

  // A fetch of a fill, of which something has still to come.
  struct Flow {
    LegId id = kNoLeg;
    LegProgress progress;
  };
  // All that are under way, and whether a reader waits for a fetch.
  struct UnderWay {
    std::vector<Flow> fills;
    bool reader_waits = false;
  };

  explicit FillFlows(Limits limits) : limits_(limits) {}

  // A reader waits for a fetch, or has just waited for one.
  void ReaderSeen(Instant now) { reader_seen_ = now; }
  // Whether fills are bounded though no reader waits now. Where they are not, it says the same whatever fills
  // are under way.
  bool IsReaderNear(Instant now) const { return reader_seen_ && now < *reader_seen_ + kReaderKept; }

  // Whether another may be asked for.
  bool MayStart(const UnderWay& under_way, Instant now);
  // When MayStart is worth asking again though nothing has changed; not before `now`, Instant::max() for
  // never.
  Instant LookAgainAt(const UnderWay& under_way, Instant now) const;
  // Those that flow and have no place: of those that flow the ones keep theirs that have done so for the
  // longest.
  std::vector<LegId> WithoutPlace(UnderWay under_way, Instant now) const;

 private:
  bool IsBounded(const UnderWay& under_way, Instant now) const {
    return under_way.reader_waits || IsReaderNear(now);
  }
  // No reader waits, nor did just now.
  bool IsQuiet(const UnderWay& under_way, Instant now) const {
    return !under_way.reader_waits && (!reader_seen_ || now >= *reader_seen_ + kQuiet);
  }
  // Of the time in which it was never quiet: how much of a turn of both is over.
  Duration OfTurn(Instant now) const { return (now - quiet_) % (limits_.alone_max + kShared); }
  size_t FlowsMax(const UnderWay& under_way, Instant now) const {
    return IsQuiet(under_way, now) || OfTurn(now) >= limits_.alone_max ? limits_.flows_max : 0;
  }

  const Limits limits_;
  std::optional<Instant> reader_seen_;  // last
  Instant quiet_{};                     // when it was found to be so last
};

}  // namespace sluice
