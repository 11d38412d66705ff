#include "p2p/recipe/recipe.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iterator>
#include <libtorrent/bdecode.hpp>
#include <libtorrent/bencode.hpp>
#include <libtorrent/entry.hpp>
#include <libtorrent/string_view.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

constexpr int kTorrentDepthMax = 8;  // the canonical form has five levels
constexpr int kTorrentTokensMax = 64;
constexpr int64_t kMetaVersion = 2;

Digest HashPair(Sha256& hash, const Digest& left, const Digest& right) {
  hash.Update(std::as_bytes(left.bytes()));
  hash.Update(std::as_bytes(right.bytes()));
  return hash.Finish();
}

// The root of the tree over `hashes`, filled up to `width` (a power of two) with `pad`.
Digest FoldTree(std::vector<Digest> hashes, size_t width, Digest pad) {
  Sha256 hash;
  for (; width > 1; width /= 2) {
    if (hashes.size() % 2 == 1) hashes.push_back(pad);
    for (size_t i = 0; i < hashes.size() / 2; ++i) {
      hashes[i] = HashPair(hash, hashes[2 * i], hashes[2 * i + 1]);
    }
    hashes.resize(hashes.size() / 2);
    pad = HashPair(hash, pad, pad);
  }
  return hashes.front();
}

size_t LeavesPerChunk(uint32_t chunk_size) {
  return chunk_size / kLeafBytes;
}

// BEP 52: leaves past the end of the file are zero hashes, so a chunk past it is a tree of those.
Digest FoldChunk(std::vector<Digest> leaves, uint32_t chunk_size) {
  return FoldTree(std::move(leaves), LeavesPerChunk(chunk_size), Digest());
}

Digest FoldLayer(const std::vector<Digest>& layer, uint32_t chunk_size) {
  const Digest absent_chunk = FoldChunk({Digest()}, chunk_size);
  return FoldTree(layer, std::bit_ceil(layer.size()), absent_chunk);
}

// BEP 52: the tree of a file that is not larger than a piece is as wide as its own leaves need.
Digest FoldSmallBlob(std::vector<Digest> leaves) {
  const size_t width = std::bit_ceil(leaves.size());
  return FoldTree(std::move(leaves), width, Digest());
}

lt::string_view AsChars(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.bytes().data()), Digest::kBytes};
}

std::string Bencode(const lt::entry& entry) {
  std::string bytes;
  lt::bencode(std::back_inserter(bytes), entry);
  return bytes;
}

lt::entry InfoOf(const Recipe& recipe) {
  lt::entry file;
  file["length"] = static_cast<lt::entry::integer_type>(recipe.size);
  file["pieces root"] = AsChars(recipe.root).to_string();
  lt::entry info;
  const std::string name = recipe.blob.Hex();
  info["file tree"][name][""] = std::move(file);
  info["meta version"] = kMetaVersion;
  info["name"] = name;
  info["piece length"] = static_cast<lt::entry::integer_type>(recipe.chunk_size);
  info["private"] = 1;
  return info;
}

absl::Status Invalid(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("recipe: ", why));
}

absl::StatusOr<Digest> RawDigest(lt::string_view bytes, absl::string_view field) {
  if (bytes.size() != Digest::kBytes) {
    return Invalid(absl::StrCat(field, " has ", bytes.size(), " bytes where 32 belong"));
  }
  return Digest(std::span<const uint8_t, Digest::kBytes>(reinterpret_cast<const uint8_t*>(bytes.data()),
                                                         Digest::kBytes));
}

// The fields of the info dictionary. What it holds beyond them is found when the recipe is encoded again.
absl::StatusOr<Recipe> ReadInfo(const lt::bdecode_node& info) {
  Recipe recipe;
  const std::string name(info.dict_find_string_value("name"));
  absl::StatusOr<Digest> blob = Digest::ParseHex(name);
  if (!blob.ok()) return Invalid(absl::StrCat("name: ", blob.status().message()));
  recipe.blob = *blob;

  const int64_t chunk_size = info.dict_find_int_value("piece length", -1);
  if (chunk_size < kChunkSizeMin || chunk_size > kChunkSizeMax) {
    return Invalid(absl::StrCat("piece length ", chunk_size, " is out of bounds"));
  }
  recipe.chunk_size = static_cast<uint32_t>(chunk_size);

  const lt::bdecode_node tree = info.dict_find_dict("file tree");
  const lt::bdecode_node entry = tree ? tree.dict_find_dict(name) : lt::bdecode_node();
  const lt::bdecode_node file = entry ? entry.dict_find_dict("") : lt::bdecode_node();
  if (!file) return Invalid("file tree lacks the file that is named by the blob's digest");
  const int64_t size = file.dict_find_int_value("length", -1);
  if (size <= 0) return Invalid(absl::StrCat("length ", size, " is out of bounds"));
  recipe.size = static_cast<uint64_t>(size);
  if (absl::Status valid = ChunkGeometry::Validate(recipe.size, recipe.chunk_size); !valid.ok()) {
    return Invalid(valid.message());
  }
  absl::StatusOr<Digest> root = RawDigest(file.dict_find_string_value("pieces root"), "pieces root");
  if (!root.ok()) return root.status();
  recipe.root = *root;
  return recipe;
}

absl::Status ReadLayer(const lt::bdecode_node& layers, Recipe& recipe) {
  const uint32_t chunk_count = recipe.geometry().chunk_count();
  if (chunk_count == 1) return absl::OkStatus();
  const lt::string_view bytes = layers.dict_find_string_value(AsChars(recipe.root));
  if (bytes.size() != size_t{chunk_count} * Digest::kBytes) {
    return Invalid(absl::StrCat("the piece layer has ", bytes.size(), " bytes where ", chunk_count,
                                " hashes of 32 belong"));
  }
  recipe.layer.reserve(chunk_count);
  for (uint32_t i = 0; i < chunk_count; ++i) {
    recipe.layer.push_back(*RawDigest(bytes.substr(i * Digest::kBytes, Digest::kBytes), "hash"));
  }
  if (FoldLayer(recipe.layer, recipe.chunk_size) != recipe.root) {
    return Invalid("the piece layer does not hash to the pieces root");
  }
  return absl::OkStatus();
}

}  // namespace

std::string Recipe::EncodeTorrent() const {
  std::string hashes;
  hashes.reserve(layer.size() * Digest::kBytes);
  for (const Digest& hash : layer) hashes.append(AsChars(hash).data(), Digest::kBytes);

  lt::entry torrent;
  torrent["info"] = InfoOf(*this);
  lt::entry& layers = torrent["piece layers"] = lt::entry(lt::entry::dictionary_t);
  if (!layer.empty()) layers[AsChars(root)] = std::move(hashes);
  return Bencode(torrent);
}

Digest Recipe::InfoHash() const {
  return Sha256::Of(Bencode(InfoOf(*this)));
}

absl::StatusOr<Recipe> Recipe::DecodeTorrent(std::string_view bytes) {
  if (bytes.size() > kRecipeBytesMax) {
    return Invalid(absl::StrCat("it has ", bytes.size(), " bytes, more than ", kRecipeBytesMax));
  }
  lt::error_code error;
  const lt::bdecode_node torrent = lt::bdecode({bytes.data(), static_cast<std::ptrdiff_t>(bytes.size())},
                                               error, nullptr, kTorrentDepthMax, kTorrentTokensMax);
  if (error) return Invalid(absl::StrCat("not bencoded: ", error.message()));
  if (torrent.type() != lt::bdecode_node::dict_t) return Invalid("not a dictionary");
  const lt::bdecode_node info = torrent.dict_find_dict("info");
  const lt::bdecode_node layers = torrent.dict_find_dict("piece layers");
  if (!info || !layers) return Invalid("it lacks \"info\" or \"piece layers\"");

  absl::StatusOr<Recipe> recipe = ReadInfo(info);
  if (!recipe.ok()) return recipe;
  if (absl::Status read = ReadLayer(layers, *recipe); !read.ok()) return read;
  // Whatever else it says (other keys, an order of its own, bytes behind the end) would give other nodes
  // another info-hash or another meaning.
  if (recipe->EncodeTorrent() != bytes) return Invalid("it is not in the canonical form");
  return recipe;
}

bool Recipe::IsBoundBy(const BlobSpec& spec) const {
  return spec.root == root && spec.digest == blob && spec.size == size && spec.chunk_size == chunk_size;
}

RecipeBuilder::RecipeBuilder(uint32_t chunk_size) : chunk_size_(chunk_size) {
  if (!std::has_single_bit(chunk_size) || chunk_size < kChunkSizeMin || chunk_size > kChunkSizeMax)
    std::abort();
}

void RecipeBuilder::Update(std::span<const std::byte> bytes) {
  size_ += bytes.size();
  while (!bytes.empty()) {
    // Leaf by leaf, so that the second hash finds the bytes still in the cache.
    const std::span<const std::byte> part = bytes.first(std::min(bytes.size(), kLeafBytes - leaf_bytes_));
    whole_.Update(part);
    leaf_.Update(part);
    leaf_bytes_ += part.size();
    if (leaf_bytes_ == kLeafBytes) EndLeaf();
    bytes = bytes.subspan(part.size());
  }
}

void RecipeBuilder::EndLeaf() {
  leaves_.push_back(leaf_.Finish());
  leaf_bytes_ = 0;
  if (leaves_.size() < LeavesPerChunk(chunk_size_)) return;
  // One more than allowed is kept, as the sign of a blob that is too large.
  if (layer_.size() <= kChunksPerBlobMax) layer_.push_back(FoldChunk(leaves_, chunk_size_));
  leaves_.clear();
}

absl::StatusOr<Recipe> RecipeBuilder::Finish() {
  if (size_ == 0) return Invalid("an empty blob has none");
  if (absl::Status valid = ChunkGeometry::Validate(size_, chunk_size_); !valid.ok()) {
    return Invalid(valid.message());
  }
  if (leaf_bytes_ > 0) EndLeaf();

  Recipe recipe{.blob = whole_.Finish(), .size = size_, .chunk_size = chunk_size_, .root = {}, .layer = {}};
  if (layer_.empty()) {
    recipe.root = FoldSmallBlob(std::move(leaves_));
    return recipe;
  }
  if (!leaves_.empty()) layer_.push_back(FoldChunk(std::move(leaves_), chunk_size_));
  recipe.root = FoldLayer(layer_, chunk_size_);
  if (layer_.size() > 1) recipe.layer = std::move(layer_);
  return recipe;
}

std::vector<Digest> HashLeaves(std::span<const std::byte> bytes) {
  Sha256 hash;
  std::vector<Digest> leaves;
  leaves.reserve((bytes.size() + kLeafBytes - 1) / kLeafBytes + 1);
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(bytes.size(), kLeafBytes))) {
    hash.Update(bytes.first(std::min(bytes.size(), kLeafBytes)));
    leaves.push_back(hash.Finish());
  }
  return leaves;
}

Digest FoldLeaves(const ChunkGeometry& geometry, std::vector<Digest> leaves) {
  if (geometry.chunk_count() == 1) return FoldSmallBlob(std::move(leaves));
  return FoldChunk(std::move(leaves), geometry.chunk_size());
}

Digest HashChunk(const ChunkGeometry& geometry, std::span<const std::byte> bytes) {
  return FoldLeaves(geometry, HashLeaves(bytes));
}

}  // namespace sluice::p2p
