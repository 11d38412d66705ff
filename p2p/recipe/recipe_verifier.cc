#include "p2p/recipe/recipe_verifier.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

uint64_t BytesOf(const std::vector<Digest>& layer) {
  return layer.size() * sizeof(Digest);
}

// A layer is a function of these three, so one that was checked once stays right whatever the store holds.
bool SameBinding(const BlobSpec& a, const BlobSpec& b) {
  return a.root == b.root && a.size == b.size && a.chunk_size == b.chunk_size;
}

}  // namespace

RecipeVerifier::RecipeVerifier(RecipeStore& store, uint64_t cache_bytes_max, LeafCache* leaves)
    : store_(store), cache_bytes_max_(cache_bytes_max), leaves_(leaves) {}

absl::StatusOr<Evidence> RecipeVerifier::Verify(const Blob& blob, ChunkIndex index,
                                                std::span<const std::byte> bytes) {
  const ChunkGeometry& geometry = blob.geometry();
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  if (!facts->root) return HoldAgainstClaim(blob, index, bytes);
  if (index.value() >= geometry.chunk_count() || bytes.size() != geometry.RangeOf(index).length) {
    return absl::DataLossError(absl::StrCat("blob ", blob.digest().ToString(), ": chunk ", index.value(),
                                            " has ", bytes.size(),
                                            " bytes, which no chunk of that index has"));
  }

  Digest expected = *facts->root;
  if (geometry.chunk_count() > 1) {
    absl::StatusOr<Layer> layer = LayerOf(blob.key(), *facts);
    if (!layer.ok()) return layer.status();
    if (*layer == nullptr) return Evidence::kUnverified;
    expected = (**layer)[index.value()];
  }
  std::vector<Digest> leaves = HashLeaves(bytes);
  if (FoldLeaves(geometry, leaves) != expected) {
    return absl::DataLossError(absl::StrCat("blob ", blob.digest().ToString(), ": chunk ", index.value(),
                                            " is not what its recipe promises"));
  }
  // The swarm carries what is kept by its digest's name.
  if (leaves_ && blob.key().IsOf(blob.digest())) leaves_->Put(blob.digest(), index, std::move(leaves));
  return Evidence::kVerified;
}

// It is worth no more than the member's word, and no less: who sends other bytes is found out.
absl::StatusOr<Evidence> RecipeVerifier::HoldAgainstClaim(const Blob& blob, ChunkIndex index,
                                                          std::span<const std::byte> bytes) const {
  std::shared_ptr<const Recipe> claimed;
  {
    std::lock_guard lock(mutex_);
    const auto found = claimed_.find(blob.key());
    if (found == claimed_.end()) return Evidence::kUnverified;
    claimed = found->second;
  }
  const ChunkGeometry& geometry = blob.geometry();
  if (claimed->size != geometry.size() || claimed->chunk_size != geometry.chunk_size())
    return Evidence::kUnverified;
  const Digest& expected = geometry.chunk_count() > 1 ? claimed->layer[index.value()] : claimed->root;
  if (HashChunk(geometry, bytes) == expected) return Evidence::kUnverified;
  return absl::DataLossError(absl::StrCat("blob ", blob.digest().ToString(), ": chunk ", index.value(),
                                          " is not what the recipe promises that a member has given"));
}

void RecipeVerifier::Claim(const BlobKey& key, Recipe recipe) {
  DropClaim(key);
  std::lock_guard lock(mutex_);
  claimed_bytes_ += BytesOf(recipe.layer);
  claimed_[key] = std::make_shared<const Recipe>(std::move(recipe));
  while (claimed_bytes_ > kClaimedBytesMax && claimed_.size() > 1) {
    const auto first = claimed_.begin();
    const auto other = first->first == key ? std::next(first) : first;
    claimed_bytes_ -= BytesOf(other->second->layer);
    claimed_.erase(other);
  }
}

bool RecipeVerifier::HasClaim(const BlobKey& key) const {
  std::lock_guard lock(mutex_);
  return claimed_.contains(key);
}

bool RecipeVerifier::DropClaim(const BlobKey& key) {
  std::lock_guard lock(mutex_);
  const auto found = claimed_.find(key);
  if (found == claimed_.end()) return false;
  claimed_bytes_ -= BytesOf(found->second->layer);
  claimed_.erase(found);
  return true;
}

bool RecipeVerifier::HasBoundRecipe(const Blob& blob) {
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  if (!facts->root) return false;
  if (blob.geometry().chunk_count() == 1) return true;  // the root alone proves it
  const absl::StatusOr<Layer> layer = LayerOf(blob.key(), *facts);
  return layer.ok() && *layer != nullptr;
}

uint64_t RecipeVerifier::cached_bytes() const {
  std::lock_guard lock(mutex_);
  return cached_bytes_;
}

// nullptr if the store has no bound recipe.
absl::StatusOr<RecipeVerifier::Layer> RecipeVerifier::LayerOf(const BlobKey& key, const BlobSpec& spec) {
  if (Layer layer = FindCached(key, spec)) return layer;

  // Without the lock: two threads may decode the same recipe, which costs time but nothing else.
  absl::StatusOr<std::string> torrent = store_.GetRecipe(key);
  if (absl::IsNotFound(torrent.status())) return nullptr;
  if (!torrent.ok()) {
    return absl::UnavailableError(
        absl::StrCat("recipe of ", key.ToString(), ": ", torrent.status().message()));
  }
  absl::StatusOr<Recipe> recipe = Recipe::DecodeTorrent(*torrent);
  if (!recipe.ok() || !recipe->IsBoundBy(spec)) return nullptr;
  auto layer = std::make_shared<const std::vector<Digest>>(std::move(recipe->layer));
  Remember(key, spec, layer);
  return layer;
}

RecipeVerifier::Layer RecipeVerifier::FindCached(const BlobKey& key, const BlobSpec& spec) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  if (found == entries_.end() || !SameBinding(found->second->spec, spec)) return nullptr;
  order_.splice(order_.begin(), order_, found->second);
  return found->second->layer;
}

void RecipeVerifier::Remember(const BlobKey& key, const BlobSpec& spec, Layer layer) {
  std::lock_guard lock(mutex_);
  const auto drop = [this](Order::iterator entry) {
    cached_bytes_ -= BytesOf(*entry->layer);
    entries_.erase(entry->key);
    order_.erase(entry);
  };
  if (const auto old = entries_.find(key); old != entries_.end()) drop(old->second);
  cached_bytes_ += BytesOf(*layer);
  order_.push_front({key, spec, std::move(layer)});
  entries_[key] = order_.begin();
  // The newest stays even if it alone is over the bound: its blob is being read.
  while (cached_bytes_ > cache_bytes_max_ && order_.size() > 1) drop(std::prev(order_.end()));
}

}  // namespace sluice::p2p
