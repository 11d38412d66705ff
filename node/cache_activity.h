#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "node/blob_key.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice {

class FetchTable;
class ReadTable;

// What a cache does at one moment, for people to look at. A value.
struct CacheActivity {
  static constexpr size_t kReadsMax = 32;

  // Absent chunks that somebody wants, by what is done about them. What nobody waits for stands here once
  // there was room for it.
  struct Chunks {
    uint32_t queued = 0;
    uint32_t under_way = 0;
    uint32_t paused = 0;  // nobody could be asked just now
  };
  // A read that somebody waits for.
  struct WaitingRead {
    BlobKey blob;
    ByteRange range;
    Duration waited{};
    Duration left{};  // until its deadline
    uint32_t chunks_missing = 0;
  };

  std::array<Chunks, kFetchClassCount> chunks;
  uint64_t inflight_bytes = 0;  // asked for and not yet stored
  uint64_t reads_waiting = 0;
  std::vector<WaitingRead> reads;  // those that wait longest, at most kReadsMax
  std::map<BlobKey, std::vector<ChunkIndex>> under_way;
};

// What the tables hold; without inflight_bytes. Takes time by their sizes: some 0.1 microseconds an entry.
CacheActivity ActivityOf(const ReadTable& reads, const FetchTable& wanted, Instant now);

}  // namespace sluice
