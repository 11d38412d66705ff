#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "api/http/peer_blobs.h"
#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/chunk_flow.h"
#include "node/daemon/member_recipes.h"
#include "node/executor.h"
#include "node/peer_trust.h"
#include "p2p/cluster/chunk_blame.h"
#include "p2p/cluster/spreading.h"
#include "p2p/registry/allow_list.h"

namespace sluice {

// The chunks that this node gives to others: as a home it gets them from the origin that the asker names, for
// all who ask; else it gives what is here, or comes. What took credentials to get is given to proven members
// alone. Such a member gets what is here without a question; for what is to be fetched the origin is asked by
// the token that it shows, and where that is refused, by the next one's who waits. Without a token,
// strangers' right is tried, or this node's password where the registry knows nothing else.
//
// What others have it takes where that can be proven: the asker gives it the recipe for that. For its zone it
// asks other members, too; what it does not get like that the asker gets elsewhere, and is told that it is
// not here.
//
// What is coming just now goes out as it comes. Who is present-only is also let wait for what this node gets
// by its own right, if this node comes before it by score: so waits go one way.
//
// An asker's claim about a blob is hearsay (see BlobSpec): it shares what a manifest says of the same
// repository if it says the same, else it has a file of its own. Nothing is fetched for who is present-only,
// nor is anything registered.
//
// Thread-safe. Held by a shared pointer; the parts outlive the server whose requests it answers and the
// cache's reads, the spreader also what is left of them on executors.
class HomeBlobs final : public api::PeerBlobs, public std::enable_shared_from_this<HomeBlobs> {
 public:
  struct Parts {
    const Clock& clock;
    Executor& io;
    index::DiskStore& store;
    BlobCache& cache;
    const p2p::AllowList& allowed;
    std::shared_ptr<p2p::Spreader> spreader;
    std::function<bool(const std::string& registry)> is_throttled;  // has asked this node for patience
    std::string name;                                               // of this node as a member
    PeerTrust trust = PeerTrust::kUnproven;
    const p2p::ChunkBlame* blame = nullptr;  // null: nothing here came from other members
    // As MemberRecipes::Await; null: what members send can be proven.
    std::function<bool(const std::shared_ptr<Blob>&, const std::string& asker, MemberRecipes::Then)>
        await_recipe = nullptr;
    // As ImportedRights::Know; null: nothing is imported.
    std::function<bool(const Digest&, const BlobOrigin&, uint64_t size, Task then)> know_imported = nullptr;
    std::shared_ptr<ChunkFlows> flows = nullptr;  // null: chunks are given when they are here
  };
  explicit HomeBlobs(Parts parts) : parts_(std::move(parts)) {}

  // Chunks that begin to come are given to those who wait for them, too, from now on.
  void WatchFlows();

  Task Ask(api::PeerBlobRequest request, Task on_wait, OnAnswer on_answer) override;
  bool IsThrottled(const BlobOrigin& origin) const override { return parts_.is_throttled(origin.registry); }

 private:
  struct Asked;
  using AskedPtr = std::shared_ptr<Asked>;

  // On the I/O pool.
  void Open(const AskedPtr& asked);
  void Find(const AskedPtr& asked);
  void Begin(const AskedPtr& asked, bool provable);
  std::shared_ptr<Blob> FindKnown(const BlobClaim& claim) const;
  bool MayGet(const Asked& asked) const;
  bool IsForAll(const Asked& asked) const;
  Duration PublicAgeOf(const Asked& asked) const;
  bool MayGive(const Asked& asked) const;
  bool IsProvenOrSaidBy(const Asked& asked) const;
  bool MaySayItComes(const Asked& asked) const;
  Grant GrantOf(const Asked& asked) const;
  void GivePresent(const AskedPtr& asked);
  std::shared_ptr<ChunkFlow> FlowOf(const Asked& asked) const;
  bool ComesBefore(const Asked& asked) const;
  void WaitFromStart(const AskedPtr& asked, ReadMode mode);
  void WaitForFlow(const AskedPtr& asked);
  void WaitOtherwise(const AskedPtr& asked);
  void SayWaiting(const AskedPtr& asked);
  void SayWaitingSoon(const AskedPtr& asked);
  void GiveFlowing(const p2p::Spreader::ChunkName& chunk);
  void DropLie(const std::shared_ptr<Blob>& blob, int tries);

  // Any thread.
  void StartRead(const AskedPtr& asked, ReadMode mode);
  void BeginsToCome(const p2p::Spreader::ChunkName& chunk);
  void Came(const p2p::Spreader::ChunkName& chunk, p2p::Spreader::Whole whole);
  void ReadEnded(const AskedPtr& asked, const absl::Status& status);
  void Decided(const AskedPtr& asked, const p2p::Spreader::Answer& answer);
  void AskForPlace(const AskedPtr& asked);
  void WaitTurn(const AskedPtr& asked, p2p::Spreader::RequestId place, Duration look_again);
  void LookAgain(p2p::Spreader::RequestId place, Duration after, Instant until);
  void GiveTurns(const p2p::Spreader::ChunkName& ended);
  void MayGiveTurns(const p2p::Spreader::ChunkName& ended);
  void Give(const AskedPtr& asked);
  std::optional<ReadId> ReadAlong(Asked& asked);
  void StopReadOf(Asked& asked);
  void Refuse(const AskedPtr& asked, api::PeerRefusal refusal);
  void RefuseAsOrigin(const AskedPtr& asked);
  void Answer(const AskedPtr& asked, api::PeerBlobAnswer answer);
  void GiveUpInTime(const AskedPtr& asked);
  void GiveUp(const AskedPtr& asked);
  void GiveBackPlace(const AskedPtr& asked);
  void LetGo(const AskedPtr& asked);

  const Parts parts_;
  // Held while the spreader decides who waits, and while it tells what becomes of those who do.
  std::mutex mutex_;
  // Guarded by mutex_: who waits for a chunk, and who for his turn to be sent one.
  absl::flat_hash_map<p2p::Spreader::RequestId, AskedPtr> waiting_;
  absl::flat_hash_map<p2p::Spreader::RequestId, AskedPtr> turns_;
};

}  // namespace sluice
