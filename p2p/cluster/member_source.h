#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/any_invocable.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "p2p/cluster/chunk_blame.h"
#include "p2p/cluster/download_budget.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/registry/pull_rights.h"

namespace sluice::p2p {

// From whom chunks are taken that nothing can prove yet. Source: DESIGN.md, "Peers": integrity.unsealed.
enum class Unsealed { kFromRegistry, kFromMembers };

// What all that asks members has in common. Everything outlives what is asked.
struct MemberAccess {
  const Clock& clock;
  Executor& io;
  Members& members;
  MemberHealth& health;
  PeerTransport& client;
  AccessLedger& ledger;
  // Tells whether what members send of the blob can be proven, when the member of that name was asked for its
  // recipe if need be: `then` is called once, in the call or soon after it. May block on disk.
  using AwaitRecipe = std::function<void(const std::shared_ptr<Blob>&, const std::string& member,
                                         absl::AnyInvocable<void(bool provable) &&> then)>;
  AwaitRecipe await_recipe;
  // The blob is not to be had from members for so long, by that asker: without a recipe nothing that they
  // send could be proven; or this one said that each node has to ask the origin for itself. Any thread.
  std::function<void(const Blob&, Asker, const std::string& refused_by, Duration)> not_carried;
  // A member does not have a chunk of a blob. Any thread.
  std::function<void(const Blob&, const std::string&)> lacks;
  std::function<double()> random;  // in [0, 1); thread-safe
  std::function<void(const std::string&)> warn;
  DownloadBudget& download;
  ChunkBlame& blame;
  Unsealed unsealed = Unsealed::kFromRegistry;
  // What homes may show for this node; null: members are not proven.
  PullTokens* tokens = nullptr;
  // Whether a repository was found to be public lately; any thread. May be null.
  std::function<bool(const BlobOrigin&)> is_public = nullptr;
};

// Chunks from one member, asked in one role. Each chunk is a request of its own. A home that is busy names
// helpers, which are asked for what they have, one after the other, and after them the home again. Source:
// PEERS.md, "Spreading".
//
// Of what is not public a proven home is shown this node's token; one that it can do nothing with is replaced
// by another, once.
//
// Thread-safe.
class MemberSource final : public ChunkSource {
 public:
  // So long a blob without a bound recipe is not asked for.
  static constexpr Duration kWithoutRecipe = std::chrono::seconds(5);
  // So long after a member said that each node has to ask for itself.
  static constexpr Duration kAskYourself = std::chrono::seconds(60);
  static constexpr int kFailuresMax = 5;         // of helpers, for one chunk
  static constexpr size_t kHelpersMax = 4;       // asked before those whom they name are not
  static constexpr size_t kOriginsAskedMax = 2;  // by the right of which a member is asked for what it has

  // `access` outlives the fetches.
  MemberSource(const MemberAccess& access, Member member, PeerRole role)
      : access_(access), member_(std::move(member)), role_(role) {}

  const Member& member() const { return member_; }

  SourceKind kind() const override { return SourceKind::kPeer; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override;
  void KeptUnproven(SenderId sender, const Blob& blob, ChunkIndex index,
                    std::span<const std::byte> bytes) override;
  void NoteOutrun(bool stalled) override;

 private:
  void NoteAccess(SenderId sender, const Blob& blob);

  const MemberAccess& access_;
  const Member member_;
  const PeerRole role_;
};

}  // namespace sluice::p2p
