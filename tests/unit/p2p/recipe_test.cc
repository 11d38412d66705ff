#include "p2p/recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/info_hash.hpp>
#include <libtorrent/torrent_info.hpp>
#include <map>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/recipe_verifier.h"

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> RandomBytes(size_t size, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

Recipe Make(std::span<const std::byte> bytes, uint32_t chunk_size) {
  RecipeBuilder builder(chunk_size);
  builder.Update(bytes);
  absl::StatusOr<Recipe> recipe = builder.Finish();
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return *recipe;
}

BlobSpec SpecOf(const Recipe& recipe) {
  return {.digest = recipe.blob,
          .size = recipe.size,
          .chunk_size = recipe.chunk_size,
          .root = recipe.root,
          .origins = {}};
}

Digest FromTorrent(const char* bytes) {
  return Digest(
      std::span<const uint8_t, Digest::kBytes>(reinterpret_cast<const uint8_t*>(bytes), Digest::kBytes));
}

class RecipeSizes : public ::testing::TestWithParam<std::tuple<size_t, uint32_t>> {};

// libtorrent computes nothing here that our encoder computed: it checks the layer against the root itself,
// and we compare with hashes made by a plain recursion over the definition.
Digest PlainRoot(std::span<const std::byte> bytes, size_t width_leaves) {
  if (width_leaves == 1) return bytes.empty() ? Digest() : Sha256::Of(bytes);
  const size_t half = std::min(bytes.size(), width_leaves / 2 * kLeafBytes);
  const Digest left = PlainRoot(bytes.first(half), width_leaves / 2);
  const Digest right = PlainRoot(bytes.subspan(half), width_leaves / 2);
  Sha256 hash;
  hash.Update(std::as_bytes(left.bytes()));
  hash.Update(std::as_bytes(right.bytes()));
  return hash.Finish();
}

TEST_P(RecipeSizes, AgreesWithTheDefinitionAndWithLibtorrent) {
  const auto [size, chunk_size] = GetParam();
  const std::vector<std::byte> bytes = RandomBytes(size);
  const Recipe recipe = Make(bytes, chunk_size);
  EXPECT_EQ(recipe.blob, Sha256::Of(bytes));
  EXPECT_EQ(recipe.size, size);
  const size_t leaves = (size + kLeafBytes - 1) / kLeafBytes;
  EXPECT_EQ(recipe.root, PlainRoot(bytes, std::bit_ceil(leaves)));

  const std::string torrent = recipe.EncodeTorrent();
  lt::error_code error;
  const lt::torrent_info info(lt::span<const char>(torrent), error, lt::from_span);
  ASSERT_FALSE(error) << error.message();
  ASSERT_TRUE(info.v2());
  EXPECT_FALSE(info.v1());
  EXPECT_TRUE(info.priv());
  EXPECT_EQ(info.name(), recipe.blob.Hex());
  EXPECT_EQ(info.files().file_size(lt::file_index_t(0)), static_cast<int64_t>(size));
  EXPECT_EQ(info.piece_length(), static_cast<int>(chunk_size));
  EXPECT_EQ(FromTorrent(info.info_hashes().v2.data()), recipe.InfoHash());
  // libtorrent fills the last piece up with a pad file of its own.
  EXPECT_EQ(info.num_files(), size % chunk_size == 0 ? 1 : 2);
  EXPECT_EQ(FromTorrent(info.files().root_ptr(lt::file_index_t(0))), recipe.root);
  ASSERT_EQ(info.num_pieces(), static_cast<int>(recipe.geometry().chunk_count()));
  const auto layer = info.piece_layer(lt::file_index_t(0));
  if (recipe.layer.empty()) {
    EXPECT_LE(size, chunk_size);
    EXPECT_EQ(FromTorrent(layer.data()), recipe.root);
  } else {
    ASSERT_EQ(layer.size(), static_cast<int>(recipe.layer.size() * Digest::kBytes));
    EXPECT_EQ(std::memcmp(layer.data(), recipe.layer.data(), static_cast<size_t>(layer.size())), 0);
  }

  const absl::StatusOr<Recipe> decoded = Recipe::DecodeTorrent(torrent);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, recipe);
}

TEST_P(RecipeSizes, HashesOfChunksAreThoseOfTheLayer) {
  const auto [size, chunk_size] = GetParam();
  const std::vector<std::byte> bytes = RandomBytes(size);
  const Recipe recipe = Make(bytes, chunk_size);
  const ChunkGeometry geometry = recipe.geometry();
  for (uint32_t i = 0; i < geometry.chunk_count(); ++i) {
    const ByteRange range = geometry.RangeOf(ChunkIndex(i));
    const Digest hash = HashChunk(geometry, std::span(bytes).subspan(range.offset, range.length));
    EXPECT_EQ(hash, recipe.layer.empty() ? recipe.root : recipe.layer[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, RecipeSizes,
                         ::testing::Combine(::testing::Values<size_t>(1, 16383, 16384, 16385, 49153,
                                                                      (256 << 10) - 1, 256 << 10,
                                                                      (256 << 10) + 1, (5 << 20) + 3),
                                            ::testing::Values<uint32_t>(16 << 10, 64 << 10, 256 << 10)));

TEST(RecipeBuilder, PiecesOfAnySizeGiveTheSame) {
  const std::vector<std::byte> bytes = RandomBytes((1 << 20) + 17);
  const Recipe whole = Make(bytes, 64 << 10);
  RecipeBuilder builder(64 << 10);
  std::mt19937 random(7);
  for (std::span<const std::byte> rest = bytes; !rest.empty();) {
    const size_t n = std::min<size_t>(rest.size(), random() % 40000);
    builder.Update(rest.first(n));
    rest = rest.subspan(n);
  }
  EXPECT_EQ(*builder.Finish(), whole);
}

TEST(RecipeBuilder, AnEmptyBlobHasNone) {
  EXPECT_EQ(RecipeBuilder(16 << 10).Finish().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RecipeBuilder, RefusesTooManyChunks) {
  RecipeBuilder builder(kChunkSizeMin);
  const std::vector<std::byte> bytes(1 << 20);
  for (int i = 0; i < 1024; ++i) builder.Update(bytes);
  builder.Update(std::span(bytes).first(1));
  EXPECT_EQ(builder.Finish().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Recipe, CanonicalBytes) {
  const std::vector<std::byte> bytes(1, std::byte{'x'});
  const Recipe recipe = Make(bytes, 16 << 10);
  const std::string root(reinterpret_cast<const char*>(recipe.root.bytes().data()), Digest::kBytes);
  const std::string hex = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
  EXPECT_EQ(recipe.EncodeTorrent(),
            absl::StrCat("d4:infod9:file treed64:", hex, "d0:d6:lengthi1e11:pieces root32:", root,
                         "eee12:meta versioni2e4:name64:", hex,
                         "12:piece lengthi16384e7:privatei1ee12:piece layersdee"));
}

TEST(Recipe, IsBoundOnlyByTheVeryRoot) {
  const Recipe recipe = Make(RandomBytes(100000), 16 << 10);
  BlobSpec spec = SpecOf(recipe);
  EXPECT_TRUE(recipe.IsBoundBy(spec));
  spec.root = recipe.blob;
  EXPECT_FALSE(recipe.IsBoundBy(spec));
  spec.root.reset();
  EXPECT_FALSE(recipe.IsBoundBy(spec));
  spec = SpecOf(recipe);
  spec.size += 1;
  EXPECT_FALSE(recipe.IsBoundBy(spec));
}

TEST(DecodeTorrent, NoChangedByteIsBound) {
  const Recipe recipe = Make(RandomBytes(100000), 16 << 10);
  const std::string torrent = recipe.EncodeTorrent();
  for (size_t i = 0; i < torrent.size(); ++i) {
    std::string changed = torrent;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    const absl::StatusOr<Recipe> decoded = Recipe::DecodeTorrent(changed);
    // The last digits of the size are not in the tree's hashes: the manifest vouches for them.
    if (decoded.ok()) {
      EXPECT_NE(decoded->size, recipe.size) << "byte " << i;
      EXPECT_FALSE(decoded->IsBoundBy(SpecOf(recipe))) << "byte " << i;
    } else {
      EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument) << "byte " << i;
    }
  }
}

TEST(DecodeTorrent, NoShortenedOneIsTaken) {
  const std::string torrent = Make(RandomBytes(40000), 16 << 10).EncodeTorrent();
  for (size_t size = 0; size < torrent.size(); ++size) {
    EXPECT_FALSE(Recipe::DecodeTorrent(torrent.substr(0, size)).ok()) << size;
  }
}

TEST(DecodeTorrent, RefusesWhatIsNotCanonical) {
  const std::string torrent = Make(RandomBytes(40000), 16 << 10).EncodeTorrent();
  const auto error = [](const std::string& bytes) {
    return std::string(Recipe::DecodeTorrent(bytes).status().message());
  };
  EXPECT_THAT(error("d8:announce1:x" + torrent.substr(1)), HasSubstr("canonical"));
  EXPECT_FALSE(Recipe::DecodeTorrent(torrent + "x").ok());
}

TEST(DecodeTorrent, IsBounded) {
  EXPECT_FALSE(Recipe::DecodeTorrent(std::string(100000, 'l')).ok());
  EXPECT_FALSE(Recipe::DecodeTorrent("2147483647:x").ok());
  EXPECT_FALSE(Recipe::DecodeTorrent("d4:info9999999999999999999999:").ok());
  EXPECT_FALSE(Recipe::DecodeTorrent(std::string(kRecipeBytesMax + 1, 'd')).ok());
  EXPECT_FALSE(Recipe::DecodeTorrent("").ok());
  EXPECT_FALSE(Recipe::DecodeTorrent("i-1e").ok());
}

class FakeRecipeStore final : public RecipeStore {
 public:
  absl::StatusOr<std::string> GetRecipe(const BlobKey& blob) override {
    ++reads;
    if (!failure.ok()) return failure;
    const auto found = recipes.find(blob);
    if (found == recipes.end()) return absl::NotFoundError("no recipe");
    return found->second;
  }
  absl::Status PutRecipe(const BlobKey& blob, std::string_view recipe) override {
    recipes[blob] = recipe;
    return absl::OkStatus();
  }

  std::map<BlobKey, std::string> recipes;
  absl::Status failure;
  int reads = 0;
};

class RecipeVerifierTest : public ::testing::Test {
 protected:
  absl::StatusOr<Evidence> Verify(const BlobSpec& spec, uint32_t index, std::span<const std::byte> bytes) {
    Blob blob(spec);
    const ByteRange range = blob.geometry().RangeOf(ChunkIndex(index));
    return verifier_.Verify(blob, ChunkIndex(index), bytes.subspan(range.offset, range.length));
  }

  FakeRecipeStore store_;
  RecipeVerifier verifier_{store_, 64 * Digest::kBytes};
  std::vector<std::byte> bytes_ = RandomBytes(100000);
  Recipe recipe_ = Make(bytes_, 16 << 10);
};

TEST_F(RecipeVerifierTest, RightChunksAreVerified) {
  store_.recipes[recipe_.blob] = recipe_.EncodeTorrent();
  for (uint32_t i = 0; i < recipe_.geometry().chunk_count(); ++i) {
    EXPECT_EQ(*Verify(SpecOf(recipe_), i, bytes_), Evidence::kVerified);
  }
  EXPECT_EQ(store_.reads, 1);
}

TEST_F(RecipeVerifierTest, AFlippedBitIsDataLoss) {
  store_.recipes[recipe_.blob] = recipe_.EncodeTorrent();
  bytes_[99999] ^= std::byte{0x10};
  EXPECT_EQ(Verify(SpecOf(recipe_), 6, bytes_).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(*Verify(SpecOf(recipe_), 5, bytes_), Evidence::kVerified);
  // The right bytes at the wrong place.
  Blob blob(SpecOf(recipe_));
  EXPECT_EQ(verifier_.Verify(blob, ChunkIndex(1), std::span(bytes_).first(16 << 10)).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(RecipeVerifierTest, AnUnboundRecipeProvesNothing) {
  store_.recipes[recipe_.blob] = recipe_.EncodeTorrent();
  BlobSpec spec = SpecOf(recipe_);
  spec.root.reset();
  EXPECT_EQ(*Verify(spec, 0, bytes_), Evidence::kUnverified);
  spec.root = recipe_.blob;  // the manifest names another root: the recipe is only claimed
  EXPECT_EQ(*Verify(spec, 0, bytes_), Evidence::kUnverified);
}

TEST_F(RecipeVerifierTest, MissingAndMalformedRecipesProveNothing) {
  EXPECT_EQ(*Verify(SpecOf(recipe_), 0, bytes_), Evidence::kUnverified);
  store_.recipes[recipe_.blob] = "d4:infodee";
  EXPECT_EQ(*Verify(SpecOf(recipe_), 0, bytes_), Evidence::kUnverified);
  // One that arrives later counts at once.
  store_.recipes[recipe_.blob] = recipe_.EncodeTorrent();
  EXPECT_EQ(*Verify(SpecOf(recipe_), 0, bytes_), Evidence::kVerified);
}

TEST_F(RecipeVerifierTest, AStoreThatFailsIsUnavailable) {
  store_.failure = absl::InternalError("disk");
  EXPECT_EQ(Verify(SpecOf(recipe_), 0, bytes_).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(RecipeVerifierTest, ABlobOfOneChunkNeedsOnlyItsRoot) {
  const std::vector<std::byte> small = RandomBytes(20000);
  const Recipe recipe = Make(small, 64 << 10);
  EXPECT_EQ(*Verify(SpecOf(recipe), 0, small), Evidence::kVerified);
  EXPECT_EQ(store_.reads, 0);
}

TEST_F(RecipeVerifierTest, WhatAMemberClaimsFindsWrongChunksAndProvesNone) {
  BlobSpec spec = SpecOf(recipe_);
  spec.root.reset();
  EXPECT_FALSE(verifier_.DropClaim(recipe_.blob));
  verifier_.Claim(recipe_.blob, recipe_);
  std::vector<std::byte> wrong = bytes_;
  wrong[99999] ^= std::byte{0x10};
  EXPECT_EQ(*Verify(spec, 6, bytes_), Evidence::kUnverified);
  EXPECT_EQ(*Verify(spec, 5, wrong), Evidence::kUnverified);
  EXPECT_TRUE(absl::IsDataLoss(Verify(spec, 6, wrong).status()));
  // A bound one counts alone.
  EXPECT_EQ(*Verify(SpecOf(recipe_), 6, wrong), Evidence::kUnverified) << "its recipe is not here";
  spec.chunk_size *= 2;
  EXPECT_EQ(*Verify(spec, 0, wrong), Evidence::kUnverified) << "it is cut otherwise";
  spec.chunk_size /= 2;
  EXPECT_TRUE(verifier_.DropClaim(recipe_.blob));
  EXPECT_EQ(*Verify(spec, 6, wrong), Evidence::kUnverified);
  // Of one chunk.
  const std::vector<std::byte> small = RandomBytes(20000);
  const Recipe recipe = Make(small, 64 << 10);
  BlobSpec of_small = SpecOf(recipe);
  of_small.root.reset();
  verifier_.Claim(recipe.blob, recipe);
  EXPECT_EQ(*Verify(of_small, 0, small), Evidence::kUnverified);
  EXPECT_TRUE(absl::IsDataLoss(Verify(of_small, 0, RandomBytes(20000, 9)).status()));
}

TEST_F(RecipeVerifierTest, ClaimsAreBounded) {
  Recipe large = recipe_;
  large.layer.resize(RecipeVerifier::kClaimedBytesMax / Digest::kBytes / 4);
  std::vector<BlobKey> keys;
  for (uint32_t i = 0; i < 10; ++i) {
    const std::vector<std::byte> name = RandomBytes(100, i);
    keys.emplace_back(Sha256::Of({reinterpret_cast<const char*>(name.data()), name.size()}));
    verifier_.Claim(keys.back(), large);
    verifier_.Claim(keys.back(), large);
  }
  size_t kept = 0;
  EXPECT_TRUE(verifier_.DropClaim(keys.back())) << "the newest is wanted";
  for (const BlobKey& key : keys) kept += verifier_.DropClaim(key);
  EXPECT_EQ(kept, 3u);
}

TEST_F(RecipeVerifierTest, KeepsNoMoreThanItsBound) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const std::vector<std::byte> bytes = RandomBytes(100000, seed);
    const Recipe recipe = Make(bytes, 16 << 10);
    store_.recipes[recipe.blob] = recipe.EncodeTorrent();
    EXPECT_EQ(*Verify(SpecOf(recipe), 0, bytes), Evidence::kVerified);
    EXPECT_LE(verifier_.cached_bytes(), 64 * Digest::kBytes);
  }
  EXPECT_EQ(store_.reads, 40);
  // The last one is still there, the first is not.
  const std::vector<std::byte> last = RandomBytes(100000, 39);
  EXPECT_EQ(*Verify(SpecOf(Make(last, 16 << 10)), 1, last), Evidence::kVerified);
  EXPECT_EQ(store_.reads, 40);
  const std::vector<std::byte> first = RandomBytes(100000, 0);
  EXPECT_EQ(*Verify(SpecOf(Make(first, 16 << 10)), 1, first), Evidence::kVerified);
  EXPECT_EQ(store_.reads, 41);
}

}  // namespace
}  // namespace sluice::p2p
