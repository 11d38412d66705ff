#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "node/blob.h"
#include "node/recipe_store.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"

namespace sluice {

// Recipes of blobs that this node has no image of, from the member that asks it for them: by its zone's right
// a node asks other members, and nothing that they send is taken that can't be proven. Source: PEERS.md, "A
// request", zone homes.
//
// Thread-safe; Has may block on disk. Held by a shared pointer; the parts outlive the client's answers.
class AskerRecipes final : public std::enable_shared_from_this<AskerRecipes> {
 public:
  static constexpr size_t kAskedMax = 64;  // at once
  static constexpr Duration kTimeout = std::chrono::seconds(5);

  struct Parts {
    p2p::Members& members;
    p2p::PeerClient& client;
    RecipeStore& recipes;
    Executor& io;
    std::function<bool(const Blob&)> is_provable;  // may block on disk
  };
  explicit AskerRecipes(Parts parts) : parts_(std::move(parts)) {}

  // Whether what members send of the blob can be proven. If not, and it has a root, its recipe is asked for,
  // of the member of that name, for the next time.
  bool Has(const std::shared_ptr<Blob>& blob, const std::string& asker);

 private:
  void Take(const Blob& blob, const std::string& bytes);
  void Ended(const BlobKey& key);

  const Parts parts_;
  std::mutex mutex_;
  absl::flat_hash_set<BlobKey> asked_;  // and not answered yet; guarded by mutex_
};

}  // namespace sluice
