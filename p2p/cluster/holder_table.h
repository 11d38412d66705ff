#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/digest.h"
#include "node/executor.h"

namespace sluice::p2p {

// The bytes that two nodes mean when they speak of a blob. Source: PEERS.md, "A request".
struct BlobIdentity {
  Digest digest;
  uint64_t size = 0;
  uint32_t chunk_size = 0;
  Digest root;

  friend bool operator==(const BlobIdentity&, const BlobIdentity&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const BlobIdentity& id) {
    return H::combine(std::move(h), id.digest, id.size, id.chunk_size, id.root);
  }
};

struct HeldBlob {
  BlobIdentity blob;
  bool whole = false;          // every chunk of it, else some
  uint64_t present_bytes = 0;  // of those; what counts for a whole one is its size

  uint64_t share_bytes() const { return whole ? blob.size : std::min(present_bytes, blob.size); }
};

// How much of a blob a member has, as it said.
struct HolderShare {
  std::string name;
  uint64_t present_bytes = 0;

  friend bool operator==(const HolderShare&, const HolderShare&) = default;
};

// Who has which blobs, as they said. What nobody repeats is forgotten.
//
// Pure: the clock is handed in. Not thread-safe.
class HolderTable {
 public:
  static constexpr Duration kTtl = std::chrono::minutes(12);
  static constexpr size_t kBlobsMax = 20000;  // beyond, new ones are not taken
  static constexpr size_t kHoldersMax = 64;   // of one blob; beyond, the one heard of longest ago goes

  void Add(const HeldBlob& held, const std::string& holder, Instant now);
  // It does not have it any more. No-op if that is not known.
  void Remove(const BlobIdentity& blob, const std::string& holder);
  // It lacks a chunk: who said to have all of it is removed; of who has some that says nothing.
  void NoteLacks(const BlobIdentity& blob, const std::string& holder);
  // At most `count_max` names, those that have all of it first, among equals in random order. `random` gives
  // a number below its argument.
  std::vector<std::string> Find(const BlobIdentity& blob, size_t count_max, Instant now,
                                const std::function<size_t(size_t)>& random) const;
  // At most `count_max` of them, those that have most of it first, among equals in the order of their names.
  std::vector<HolderShare> Shares(const BlobIdentity& blob, size_t count_max, Instant now) const;
  // Forgets what is older than kTtl.
  void Expire(Instant now);
  size_t blob_count() const { return holders_.size(); }

 private:
  struct Holder {
    std::string name;
    bool whole = false;
    uint64_t present_bytes = 0;
    Instant heard{};
  };
  void RemoveIf(const BlobIdentity& blob, const std::function<bool(const Holder&)>& goes);

  absl::flat_hash_map<BlobIdentity, std::vector<Holder>> holders_;  // no list is empty
};

}  // namespace sluice::p2p
