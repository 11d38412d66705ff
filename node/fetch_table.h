#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"

namespace sluice {

using FetchId = uint64_t;
using ReadId = uint64_t;

// Single flight: every absent chunk that somebody wants, the fetch that will bring it, and who waits for
// it. While a chunk stands here it has exactly one fetch that owns it: that is what makes a fetch single
// flight.
//
// Owned by the core loop. Not thread-safe.
class FetchTable {
 public:
  struct Entry {
    FetchId owner = 0;
    FetchClass fetch_class = FetchClass::kBackfill;
    bool started = false;         // the owner has been sent to a source
    int attempts = 0;             // fetches by the last source that failed for it, since the last pause
    int pauses = 0;               // while no source was there
    std::vector<ReadId> waiters;  // reads that want it; empty for pure readahead
  };

  // The chunk's entry, or nullptr if nobody fetches it. The pointer is good until the table is changed.
  Entry* Find(const Blob& blob, ChunkIndex index);

  // Opens a fetch of a chunk. REQUIRES: there is none.
  Entry& Open(const std::shared_ptr<Blob>& blob, ChunkIndex index, FetchId owner, FetchClass fetch_class);

  // Takes the entry out, with its waiters. REQUIRES: there is one.
  Entry Close(const Blob& blob, ChunkIndex index);

  size_t size() const { return entries_.size(); }

 private:
  using Key = std::pair<const Blob*, ChunkIndex>;
  struct Held {
    std::shared_ptr<Blob> blob;  // keeps the key's address from being reused
    Entry entry;
  };
  absl::flat_hash_map<Key, Held> entries_;
};

// A run of chunks that is to be fetched from a source, or is on its way.
struct PendingFetch {
  FetchId id = 0;
  std::shared_ptr<Blob> blob;
  ChunkSpan chunks;
  FetchClass fetch_class = FetchClass::kDemand;
  Instant deadline;
  size_t source = 0;  // position in the list of sources
};

// Which fetch goes next. Demand strictly first; below it the lower class
// waits for the higher, and each class has its bound of fetches under way. Within a class the blobs take
// turns, and none may have more under way than it leaves free for others: one whose source stalls does not
// hold up the rest.
//
// Owned by the core loop. Not thread-safe.
class FetchQueue {
 public:
  struct Limits {
    uint32_t fetches_max[kFetchClassCount];  // one blob alone gets half
    uint64_t inflight_bytes_max;             // demand is exempt
    uint32_t queue_max;                      // over all classes but demand
  };

  explicit FetchQueue(Limits limits) : limits_(limits) {}

  // Errors: ResourceExhausted when the queue is full; never for demand, which the number of waiting reads
  // bounds.
  absl::Status Push(PendingFetch fetch);

  // The next fetch that may start now, counted as under way; count of chunks 0 if there is none.
  PendingFetch Pop();

  // Bytes that were counted as under way have been committed or given up.
  void Arrived(uint64_t bytes) { inflight_bytes_ -= bytes; }
  // A fetch that Pop gave has ended.
  void Finished(const PendingFetch& fetch);

  uint64_t inflight_bytes() const { return inflight_bytes_; }

 private:
  // What one blob has in one class.
  struct Share {
    std::deque<PendingFetch> waiting;
    uint32_t under_way = 0;
  };
  struct Lane {
    absl::flat_hash_map<const Blob*, Share> shares;
    std::deque<const Blob*> turns;  // blobs with something waiting, next first
    uint32_t under_way = 0;
  };

  // The turn of the first blob that may start another; the number of turns if none may.
  size_t FirstAllowed(const Lane& lane, uint32_t fetches_max) const;

  const Limits limits_;
  Lane lanes_[kFetchClassCount];
  uint32_t queued_ = 0;
  uint64_t inflight_bytes_ = 0;
};

}  // namespace sluice
