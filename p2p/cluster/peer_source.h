#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/cluster/ranks.h"

namespace sluice::p2p {

// Chunks from other nodes that have them. Each stripe's chunks are asked of its first two ranks beside this
// node, one after the other; what neither has is NotFound. For one that is down another stands in. Only
// blobs with a bound recipe are asked for: nothing else that a member sends could be proven.
//
// Thread-safe. The parts outlive the source and the client's callbacks.
class PeerSource final : public ChunkSource {
 public:
  static constexpr size_t kMembersAskedMax = 2;
  static constexpr size_t kStandInsMax = 2;

  struct Parts {
    const Clock& clock;
    Executor& io;
    Members& members;
    MemberHealth& health;
    PeerClient& client;
    AccessLedger& ledger;
    std::function<bool(const Blob&)> has_bound_recipe;  // may block on disk
    std::function<void(const std::string&)> warn;
  };
  explicit PeerSource(Parts parts) : parts_(std::move(parts)) {}

  SourceKind kind() const override { return SourceKind::kPeer; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override;
  // The name of the member behind a sender's number; empty if there is none.
  std::string MemberOf(SenderId sender) const;

 private:
  const Parts parts_;
  HomesCache homes_;  // shared by the fetches, which end before this
};

}  // namespace sluice::p2p
