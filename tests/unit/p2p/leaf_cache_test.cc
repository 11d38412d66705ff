#include "p2p/recipe/leaf_cache.h"

#include <gtest/gtest.h>

#include <string>

#include "p2p/recipe/recipe_verifier.h"

namespace sluice::p2p {
namespace {

std::vector<Digest> Leaves(int count, const std::string& seed) {
  std::vector<Digest> leaves;
  for (int i = 0; i < count; ++i) leaves.push_back(Sha256::Of(seed + std::to_string(i)));
  return leaves;
}

const Digest kBlob = Sha256::Of("a blob");
const Digest kOther = Sha256::Of("another");

TEST(LeafCache, GivesWhatItWasGivenOnce) {
  LeafCache cache;
  cache.Watch(kBlob);
  cache.Put(kBlob, ChunkIndex(3), Leaves(16, "x"));
  EXPECT_EQ(cache.bytes(), 512u);
  EXPECT_TRUE(cache.Take(kBlob, ChunkIndex(2)).empty());
  EXPECT_TRUE(cache.Take(kOther, ChunkIndex(3)).empty());
  EXPECT_EQ(cache.Take(kBlob, ChunkIndex(3)), Leaves(16, "x"));
  EXPECT_TRUE(cache.Take(kBlob, ChunkIndex(3)).empty());
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST(LeafCache, KeepsNothingOfWhatIsNotWatched) {
  LeafCache cache;
  cache.Put(kBlob, ChunkIndex(0), Leaves(1, "x"));
  EXPECT_EQ(cache.bytes(), 0u);
  cache.Watch(kBlob);
  cache.Watch(kBlob);
  cache.Put(kBlob, ChunkIndex(0), Leaves(1, "x"));
  cache.Unwatch(kBlob);
  EXPECT_TRUE(cache.Watches(kBlob));
  EXPECT_EQ(cache.bytes(), 32u);
  cache.Unwatch(kBlob);
  EXPECT_FALSE(cache.Watches(kBlob));
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST(LeafCache, TheOldestLeaveWhenItIsFull) {
  LeafCache cache(4 * 512);
  cache.Watch(kBlob);
  for (uint32_t i = 0; i < 5; ++i) cache.Put(kBlob, ChunkIndex(i), Leaves(16, std::to_string(i)));
  EXPECT_EQ(cache.bytes(), 4u * 512);
  EXPECT_TRUE(cache.Take(kBlob, ChunkIndex(0)).empty());
  EXPECT_EQ(cache.Take(kBlob, ChunkIndex(1)), Leaves(16, "1"));
  EXPECT_EQ(cache.Take(kBlob, ChunkIndex(4)), Leaves(16, "4"));
}

TEST(LeafCache, AChunkPutAgainTakesThePlaceOfItself) {
  LeafCache cache;
  cache.Watch(kBlob);
  cache.Put(kBlob, ChunkIndex(0), Leaves(16, "old"));
  cache.Put(kBlob, ChunkIndex(0), Leaves(16, "new"));
  EXPECT_EQ(cache.bytes(), 512u);
  EXPECT_EQ(cache.Take(kBlob, ChunkIndex(0)), Leaves(16, "new"));
}

class NoRecipes final : public RecipeStore {
 public:
  absl::StatusOr<std::string> GetRecipe(const BlobKey&) override { return absl::NotFoundError("none"); }
  absl::Status PutRecipe(const BlobKey&, std::string_view) override { return absl::OkStatus(); }
};

// What the verifier hands over folds to the very hash that it held the chunk against.
TEST(LeafCache, TheVerifierHandsOverTheLeavesOfGoodChunksOnly) {
  std::vector<std::byte> bytes(3 * kLeafBytes + 7, std::byte{9});
  RecipeBuilder builder(kChunkSizeDefault);
  builder.Update(bytes);
  const Recipe recipe = *builder.Finish();
  const Blob blob({.digest = recipe.blob,
                   .size = recipe.size,
                   .chunk_size = recipe.chunk_size,
                   .root = recipe.root,
                   .origins = {}});
  NoRecipes store;
  LeafCache cache;
  RecipeVerifier verifier(store, kRecipeCacheBytesDefault, &cache);
  cache.Watch(blob.digest());
  ASSERT_TRUE(verifier.Verify(blob, ChunkIndex(0), bytes).ok());
  const std::vector<Digest> leaves = cache.Take(blob.digest(), ChunkIndex(0));
  ASSERT_EQ(leaves.size(), 4u);
  EXPECT_EQ(FoldLeaves(recipe.geometry(), leaves), recipe.root);
  bytes[100] = std::byte{1};
  EXPECT_FALSE(verifier.Verify(blob, ChunkIndex(0), bytes).ok());
  EXPECT_EQ(cache.bytes(), 0u);
}

}  // namespace
}  // namespace sluice::p2p
