#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/digest.h"
#include "node/geometry.h"

namespace sluice::p2p {

inline constexpr uint64_t kLeafCacheBytesDefault = 8 << 20;  // 512 bytes for each chunk of 256 KiB

// The 16 KiB leaf hashes (BEP 52) of chunks that were verified a moment ago, for who has to name them once
// more and would else read and hash the chunk again: the swarm, when it announces a chunk that another lane
// brought. Only of blobs that are watched. A hint, no promise: what is over the bound leaves, the oldest
// first.
//
// Thread-safe.
class LeafCache {
 public:
  explicit LeafCache(uint64_t bytes_max = kLeafCacheBytesDefault) : bytes_max_(bytes_max) {}

  // Watches nest: a blob is watched until it has been unwatched as often; then what is kept of it is dropped.
  void Watch(const Digest& blob);
  void Unwatch(const Digest& blob);
  bool Watches(const Digest& blob) const;

  // Keeps the leaves of a chunk, in place of those that were kept of it. No-op for blobs that are not
  // watched.
  void Put(const Digest& blob, ChunkIndex index, std::vector<Digest> leaves);
  // Hands out what is kept and forgets it; empty if there is nothing. The leaves are those of the chunk size
  // that the blob had at Put: who takes them folds them before use.
  std::vector<Digest> Take(const Digest& blob, ChunkIndex index);

  // Bytes of leaves held just now.
  uint64_t bytes() const;

 private:
  using Key = std::pair<Digest, ChunkIndex>;
  struct Entry {
    Key key;
    std::vector<Digest> leaves;
  };
  using Order = std::list<Entry>;

  // REQUIRES: mutex_ is held
  void Drop(Order::iterator entry);

  const uint64_t bytes_max_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  absl::flat_hash_map<Digest, int> watches_;
  Order order_;  // oldest first
  absl::flat_hash_map<Key, Order::iterator> entries_;
  uint64_t bytes_ = 0;
};

}  // namespace sluice::p2p
