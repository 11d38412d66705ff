#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/executor.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/holder_table.h"
#include "p2p/cluster/members.h"

namespace sluice::p2p {

// What this node tells the others of what it has: to the three ranks of each blob, at first, when one is new
// or has started again, when it has more or less of it, and every so often. Source: PEERS.md, "Who has what".
//
// Pure: the clock is handed in. Not thread-safe.
class Announcements {
 public:
  static constexpr Duration kRepeat = std::chrono::minutes(5);
  // The same of a blob of which there is more now, but not all, or less: bytes come all the time.
  static constexpr Duration kRepeatChanged = std::chrono::seconds(5);
  static constexpr size_t kRanksTold = 3;
  static constexpr size_t kBlobsPerBatch = 2000;  // so that it stays below a megabyte

  // All that one member is to be told now, in one request.
  struct Batch {
    Member to;
    uint64_t start = 0;  // of its process
    std::vector<HeldBlob> held;
    std::vector<BlobIdentity> gone;
  };
  // What is due, where `held` is all that this node has, and `start_of` gives a member's start number.
  std::vector<Batch> Due(const MemberView& view, const std::vector<HeldBlob>& held,
                         const std::function<uint64_t(const std::string&)>& start_of, Instant now);
  // It was told. What was not told is due again.
  void Told(const Batch& batch, Instant now);

 private:
  struct Knows {
    bool whole = false;
    uint64_t share_bytes = 0;
    Instant when{};
  };
  struct Rank {
    uint64_t start = 0;
    absl::flat_hash_map<BlobIdentity, Knows> told;
  };
  const std::vector<MemberIndex>& RanksOf(const MemberView& view, const Digest& digest);

  absl::flat_hash_map<std::string, Rank> ranks_;  // by the member's name
  uint64_t ranked_view_ = 0;                      // what the next was computed from
  absl::flat_hash_map<Digest, std::vector<MemberIndex>> ranked_;
};

}  // namespace sluice::p2p
