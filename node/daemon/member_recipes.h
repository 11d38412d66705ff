#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "node/blob.h"
#include "node/executor.h"
#include "node/recipe_store.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"

namespace sluice {

// Recipes of blobs of which this node has no image, or has not read it yet, from the member that asks it for
// such a blob, or is asked: what others send is taken only where it can be proven, and without it a home
// would ask the registry for what they have. Source: PEERS.md, "Who may ask the origin".
//
// Thread-safe. Held by a shared pointer; the parts outlive the client's answers and what is posted.
class MemberRecipes final : public std::enable_shared_from_this<MemberRecipes> {
 public:
  static constexpr size_t kAskedMax = 64;  // at once
  static constexpr size_t kRefusedMax = 1024;
  static constexpr Duration kTimeout = std::chrono::seconds(1);
  // So long a member is not asked for a blob's recipe after it had none.
  static constexpr Duration kRefused = std::chrono::seconds(2);

  struct Parts {
    const Clock& clock;
    p2p::Members& members;
    p2p::PeerClient& client;
    RecipeStore& recipes;
    Executor& io;
    std::function<bool(const Blob&)> is_provable;  // whether what members send can be; may block on disk
  };
  explicit MemberRecipes(Parts parts) : parts_(std::move(parts)) {}

  using Then = absl::AnyInvocable<void(bool provable) &&>;
  // Tells whether what members send of the blob can be proven, when its recipe was asked of the member of
  // that name if need be. `then` is called once: in the call, which returns true then, or on the I/O pool
  // after kTimeout at most. May block on disk.
  bool Await(const std::shared_ptr<Blob>& blob, const std::string& member, Then then);

 private:
  using Asked = std::pair<BlobKey, std::string>;  // of which member

  bool Join(const Asked& asked, Then& then, bool* is_first);
  void Take(const Blob& blob, const std::string& bytes) const;
  void Ended(const Blob& blob, const Asked& asked);

  const Parts parts_;
  std::mutex mutex_;
  // Guarded by mutex_.
  absl::flat_hash_map<Asked, std::vector<Then>> asked_;  // and not answered yet
  absl::flat_hash_map<Asked, Instant> refused_;          // until when
};

}  // namespace sluice
