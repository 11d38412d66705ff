#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice {

// What wants chunks of one blob without anybody waiting for them: read ahead, a fill, a profile, a hint. It
// is asked when there is room for a fetch, so nothing is queued and nothing goes stale.
//
// Owned by the core loop.
class WorkSource {
 public:
  virtual ~WorkSource() = default;

  // The next chunks to bring, at most `count_max` (> 0), within the blob; those of them that are present are
  // passed over. Nothing: it is not asked again until it is offered to the scheduler anew.
  virtual std::optional<ChunkSpan> Next(uint32_t count_max, Instant now) = 0;

  // All chunks of a span that Next gave are present, or one of them can't be had: the first error. Comes once
  // for each.
  virtual void Ended(ChunkSpan span, const absl::Status& status) = 0;

  // By whose right it is brought.
  virtual Grant grant() const { return nullptr; }
};

}  // namespace sluice
