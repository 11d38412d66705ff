#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <vector>

#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/fetch_table.h"
#include "node/source_planner.h"

namespace sluice {

// How much of the link fills may take while readers wait for what comes over the same. As long as one waits
// for a chunk from elsewhere, and a while after, few of the fills' fetches flow, over all sources together.
// (Of a link that a fill fills, a read of 256 KiB takes 1.4 times as long beside one as alone, 2.1 to 2.6
// times beside two; the fill has 0.95 of its rate either way.) One that was asked for and has no byte yet
// holds a place among them, until its source says that it waits itself: then any number may be asked for, and
// which of them flows first has the place. One that is silent holds none, so that fills never come to a
// stand. Source: PEERS.md, "Fills beside reads".
//
// Pure: the clock is handed in. Owned by the core loop. Not thread-safe.
class FillFlows {
 public:
  static constexpr size_t kFlowsMax = 1;  // unless told otherwise
  // So long after the last reader fills are still bounded.
  static constexpr Duration kReaderKept = std::chrono::seconds(2);

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

  explicit FillFlows(size_t flows_max = kFlowsMax) : flows_max_(flows_max) {}

  // A reader waits for a fetch, or has just waited for one.
  void ReaderSeen(Instant now) { bounded_until_ = now + kReaderKept; }

  // Whether another may be asked for.
  bool MayStart(const UnderWay& under_way, Instant now) const;
  // When MayStart is worth asking again though nothing has changed; not before `now`, Instant::max() for
  // never.
  Instant LookAgainAt(const UnderWay& under_way, Instant now) const;
  // Those that flow and have no place: of those that flow the ones keep theirs that have done so for the
  // longest.
  std::vector<LegId> WithoutPlace(UnderWay under_way, Instant now) const;

 private:
  bool IsBounded(const UnderWay& under_way, Instant now) const {
    return under_way.reader_waits || now < bounded_until_;
  }

  const size_t flows_max_;
  Instant bounded_until_{};
};

}  // namespace sluice
