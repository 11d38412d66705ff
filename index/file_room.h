#pragma once

#include <cstdint>

#include "node/chunk_set.h"
#include "node/geometry.h"
#include "node/presence_map.h"

namespace sluice::index {

// How much room in a blob's file is reserved before a chunk is written. A chunk that stands alone gets its
// own room. One that goes on with a run of present chunks gets as much again as the run has, up to
// kAheadBytesMax, since a file in hundreds of extents reads measurably slower than one in a few. But never is
// more allocated to the file, by what is reserved for a run, than kAllocatedEighths / 8 of what is present:
// twice, with a margin for the file system's own blocks.
//
// Pure, knows no file; not thread-safe.
class FileRoom {
 public:
  static constexpr uint64_t kAheadBytesMax = 16 << 20;
  static constexpr uint32_t kRunGapChunksMax = 8;  // chunks of a run arrive in about its order
  static constexpr uint64_t kAllocatedEighths = 14;

  // What to reserve before `index` is written: a span with it in it, or an empty one if its room was reserved
  // before. Counts as reserved from here on.
  ChunkSpan Plan(const ChunkGeometry& geometry, const PresenceMap& present, ChunkIndex index);
  // The planned room was reserved, or it was not.
  void Reserved(const ChunkGeometry& geometry, ChunkSpan planned);
  void Failed(const ChunkGeometry& geometry, ChunkSpan planned);

  // The file system counts so much as allocated to the file now.
  void Measured(uint64_t allocated_bytes) { allocated_bytes_ = allocated_bytes; }
  // The file is a new one.
  void Clear();
  // Nothing more will be written for now: what is kept of each chunk is dropped.
  void Forget() { reserved_ = ChunkSet(); }

 private:
  ChunkSet reserved_;             // in this run of the store; empty before the first plan
  uint64_t allocated_bytes_ = 0;  // as measured last, and what was reserved since
  uint64_t planned_bytes_ = 0;    // is being reserved now
};

}  // namespace sluice::index
