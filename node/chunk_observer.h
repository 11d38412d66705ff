#pragma once

#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/geometry.h"

namespace sluice {

// Port: who hears of each chunk that a source has brought in.
//
// Called on the core loop; must not block.
class ChunkObserver {
 public:
  virtual ~ChunkObserver() = default;

  // It is present now, and had been asked for as that: not what it was raised to when a reader came.
  virtual void Came(const Blob& blob, ChunkIndex index, FetchClass asked_as) = 0;
};

}  // namespace sluice
