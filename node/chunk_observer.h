#pragma once

#include <optional>

#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/geometry.h"

namespace sluice {

// Port: who hears of each chunk that comes.
//
// Called on the core loop; must not block.
class ChunkObserver {
 public:
  virtual ~ChunkObserver() = default;

  // It is present now, and had been asked for as that: not what it was raised to when a reader came. Nothing
  // if it was not asked of a source, as what the swarm brings.
  virtual void Came(const Blob& blob, ChunkIndex index, std::optional<FetchClass> asked_as,
                    SourceKind from) = 0;
};

}  // namespace sluice
