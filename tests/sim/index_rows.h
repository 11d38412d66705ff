#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "index/index_db.h"
#include "node/digest.h"
#include "node/geometry.h"

// The rows of an index, in memory.
namespace sluice::sim {

using Rows = std::map<std::string, std::string>;

void Apply(const index::IndexBatch& batch, Rows* rows);

// Whether the rows claim the chunk for the file of that inode.
bool Claims(const Rows& rows, const Digest& digest, ChunkIndex chunk, uint64_t inode);

}  // namespace sluice::sim
