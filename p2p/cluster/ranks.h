#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/digest.h"
#include "node/executor.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"

namespace sluice::p2p {

// The home of a stripe, and the next two by score: who may ask the origin for it. Source: PEERS.md, "Who may
// ask the origin".
inline constexpr size_t kRanks = 3;
// So many are asked for what they have by who does not know yet who has it.
inline constexpr size_t kRanksAsked = 6;
using StripeRanks = std::array<MemberIndex, kRanksAsked>;
// Which of the first three a member is; kRanks if it is none of them.
size_t RankOf(const StripeRanks& ranks, MemberIndex member);

// The homes of one blob's stripes among the members of one view, and their other ranks.
struct BlobHomes {
  uint64_t blob_key = 0;
  std::vector<MemberIndex> of_stripe;
  std::vector<StripeRanks> ranks;  // of each stripe; first the home
  // The same among the members of this node's zone; empty where this node has no zone, or there is no other.
  std::vector<StripeRanks> of_zone;
};

// Keeps the homes of the blobs and views that were asked for last.
//
// Thread-safe. Who asks first computes them, and others for the same wait: never on the core loop.
class HomesCache {
 public:
  static constexpr size_t kEntriesMax = 256;

  // A view without named members has no homes.
  std::shared_ptr<const BlobHomes> HomesOf(const Digest& blob, uint64_t blob_size, const MemberView& view);
  // The same if they are computed already, else null. Does not block.
  std::shared_ptr<const BlobHomes> FindHomes(const Digest& blob, uint64_t blob_size, const MemberView& view);
  // How often homes were computed.
  uint64_t computed_count() const;

 private:
  struct Key {
    Digest blob;
    uint64_t blob_size = 0;
    uint64_t view = 0;
    friend bool operator==(const Key&, const Key&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.blob, key.blob_size, key.view);
    }
  };
  struct Entry {
    std::once_flag once;
    std::atomic<bool> computed{false};
    BlobHomes homes;
  };
  struct Slot {
    std::shared_ptr<Entry> entry;
    uint64_t used = 0;  // when, in lookups
  };
  std::shared_ptr<Entry> EntryOf(const Key& key);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  absl::flat_hash_map<Key, Slot> slots_;
  uint64_t lookups_ = 0;
  uint64_t computed_ = 0;
};

// Whom to ask for a stripe: its home, then by score alone, and after the members addresses without a name.
// This node itself, and who is skipped just now, are left out. REQUIRES: the homes are of this view, the
// stripe is one of the blob's
std::vector<Member> RanksOfStripe(const MemberView& view, const BlobHomes& homes, uint64_t stripe,
                                  const MemberHealth& health, size_t count_max, Instant now);
// The blob's own ranks, by score over the digest alone; the same are left out.
std::vector<Member> RanksOfBlob(const MemberView& view, const Digest& blob, const MemberHealth& health,
                                size_t count_max, Instant now);

// The same, for what is there already: first half of them from among the members of this node's zone, if it
// has one, so that what many of the zone ask for comes from within.
std::vector<Member> NearRanksOfBlob(const MemberView& view, const Digest& blob, const MemberHealth& health,
                                    size_t count_max, Instant now);

// How many members come before this node in what belongs to a key, whoever is skipped just now; all, where
// this node is no member.
size_t MembersBeforeSelf(const MemberView& view, const Digest& key);

// Who is to be asked for what belongs to a key, in the order in which they are to ask the registry for it, up
// to this node itself: empty if that is this node. Unnamed addresses have no rank; who is skipped is left
// out.
std::vector<Member> RanksBeforeSelf(const MemberView& view, const Digest& key, const MemberHealth& health,
                                    size_t count_max, Instant now);

}  // namespace sluice::p2p
