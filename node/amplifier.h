#pragma once

#include <cstdint>
#include <list>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/blob.h"

namespace sluice {

// Recognises sequential reading and says how far ahead of it to fetch.
//
// A stream is a run of demands that follow one another within a blob. Its window starts at nothing, is one
// chunk on the second demand in sequence, doubles from there up to a limit, and is asked for again once half
// of it has been read. A demand that continues no stream starts a new one, so random access is never
// amplified. Demands that the keeper answers by itself are not seen here: a stream is continued by a demand
// anywhere in the window it was given.
//
// Owned by the core loop. Not thread-safe.
class Amplifier {
 public:
  static constexpr size_t kStreamsPerBlobMax = 8;
  static constexpr size_t kBlobsMax = 1024;

  // `window_bytes_max` of 0 turns it off; any other is at least one chunk.
  explicit Amplifier(uint64_t window_bytes_max) : window_bytes_max_(window_bytes_max) {}

  // Notes a demand and returns the chunks to fetch ahead of it; count is 0 when there is nothing to be
  // gained. REQUIRES: demanded.count > 0, within the blob.
  ChunkSpan Advance(const Blob& blob, ChunkSpan demanded);

 private:
  struct Stream {
    ChunkIndex read_end;   // one past the last chunk demanded
    ChunkIndex ahead_end;  // one past the last chunk asked for ahead
    uint32_t window = 0;   // chunks
  };
  // Streams of one blob, the least recently continued first.
  struct Streams {
    std::vector<Stream> streams;
    std::list<Digest>::iterator age;
  };

  Streams& StreamsOf(const Digest& digest);

  const uint64_t window_bytes_max_;
  absl::flat_hash_map<Digest, Streams> blobs_;
  std::list<Digest> ages_;  // the least recently read blob first
};

}  // namespace sluice
