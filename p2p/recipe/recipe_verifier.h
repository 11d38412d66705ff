#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/chunk_verifier.h"
#include "node/recipe_store.h"
#include "p2p/recipe/leaf_cache.h"
#include "p2p/recipe/recipe.h"

namespace sluice::p2p {

inline constexpr uint64_t kRecipeCacheBytesDefault = 16 << 20;

// Holds chunks against the recipes in a RecipeStore. A recipe counts only if it is bound (its root is the one
// in Blob::facts()); what is missing, malformed or only claimed makes the chunk kUnverified. A blob of one
// chunk needs no recipe, its root is enough. Of a blob without a root, chunks are held against what a member
// claims that its recipe is: what does not fit is DataLoss, what fits is kUnverified all the same.
//
// Thread-safe. Keeps the layers of the recipes used last, up to a number of bytes; may read the store on the
// calling thread, so call it on the I/O pool.
class RecipeVerifier final : public ChunkVerifier {
 public:
  // `store` must outlive this, and so must `leaves`, which is given the leaves of each chunk that was
  // verified and whose blob it watches; null: nobody wants them.
  explicit RecipeVerifier(RecipeStore& store, uint64_t cache_bytes_max = kRecipeCacheBytesDefault,
                          LeafCache* leaves = nullptr);

  absl::StatusOr<Evidence> Verify(const Blob& blob, ChunkIndex index,
                                  std::span<const std::byte> bytes) override;

  // Whether the blob has a bound recipe here, so that each of its chunks can be proven alone. May read the
  // store.
  bool HasBoundRecipe(const Blob& blob);

  // What a member that has sealed the blob says that its recipe is. Kept in memory, up to kClaimedBytesMax of
  // all blobs together; what was claimed of the blob before is replaced.
  static constexpr uint64_t kClaimedBytesMax = 16 << 20;
  void Claim(const BlobKey& key, Recipe recipe);
  bool HasClaim(const BlobKey& key) const;
  // It turned out to be wrong. Returns whether there was any.
  bool DropClaim(const BlobKey& key);

  // Bytes of layers held just now.
  uint64_t cached_bytes() const;

 private:
  using Layer = std::shared_ptr<const std::vector<Digest>>;
  struct Entry {
    BlobKey key;
    BlobSpec spec;  // what the layer is bound by
    Layer layer;
  };
  using Order = std::list<Entry>;

  absl::StatusOr<Evidence> HoldAgainstClaim(const Blob& blob, ChunkIndex index,
                                            std::span<const std::byte> bytes) const;
  absl::StatusOr<Layer> LayerOf(const BlobKey& key, const BlobSpec& spec);
  Layer FindCached(const BlobKey& key, const BlobSpec& spec);
  void Remember(const BlobKey& key, const BlobSpec& spec, Layer layer);

  // Constant after construction.
  RecipeStore& store_;
  const uint64_t cache_bytes_max_;
  LeafCache* const leaves_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Order order_;  // used last first
  absl::flat_hash_map<BlobKey, Order::iterator> entries_;
  uint64_t cached_bytes_ = 0;
  absl::flat_hash_map<BlobKey, std::shared_ptr<const Recipe>> claimed_;
  uint64_t claimed_bytes_ = 0;
};

}  // namespace sluice::p2p
