#pragma once

#include <cstdint>
#include <list>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "node/blob.h"
#include "node/work_source.h"

namespace sluice {

// Recognises sequential reading and fetches ahead of it.
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

  // Notes a demand. Gives what has chunks to fetch ahead of it now; null when there is nothing to be gained.
  // What has been read by the time that it is asked is passed over. REQUIRES: demanded.count > 0, within the
  // blob
  std::shared_ptr<WorkSource> Advance(const std::shared_ptr<Blob>& blob, ChunkSpan demanded);

 private:
  class Streams;
  struct Held {
    std::shared_ptr<Streams> streams;
    std::list<const Blob*>::iterator age;
  };

  const std::shared_ptr<Streams>& StreamsOf(const std::shared_ptr<Blob>& blob);

  const uint64_t window_bytes_max_;
  absl::flat_hash_map<const Blob*, Held> blobs_;
  std::list<const Blob*> ages_;  // the least recently read blob first
};

}  // namespace sluice
