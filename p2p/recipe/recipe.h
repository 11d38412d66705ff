#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/geometry.h"
#include "p2p/recipe/sha256.h"

namespace sluice::p2p {

inline constexpr size_t kLeafBytes = 16 << 10;  // BEP 52: the block that a leaf of the hash tree covers
// Of an encoded recipe: the largest piece layer, and room for the rest.
inline constexpr size_t kRecipeBytesMax = kChunksPerBlobMax * Digest::kBytes + 4096;

// The BEP 52 (BitTorrent v2) metainfo of a blob. With it each chunk (BEP 52: piece) can be verified alone.
// Source: https://www.bittorrent.org/beps/bep_0052.html
struct Recipe {
  Digest blob;
  uint64_t size = 0;
  uint32_t chunk_size = 0;
  Digest root;                // "pieces root"
  std::vector<Digest> layer;  // "piece layers": one hash per chunk; empty if the blob is one chunk

  ChunkGeometry geometry() const { return ChunkGeometry(size, chunk_size); }

  // The .torrent: v2 only, private, one file named by the blob's 64 hex digits. A canonical function of
  // (blob, size, chunk_size, root), so that every node makes the same info-hash.
  // REQUIRES: the fields are those of a finished or decoded recipe.
  std::string EncodeTorrent() const;

  // Takes only what EncodeTorrent makes, byte for byte, with a layer that hashes to the root.
  // Errors: InvalidArgument, which says what is wrong.
  static absl::StatusOr<Recipe> DecodeTorrent(std::string_view bytes);

  // The v2 info-hash: SHA-256 of the bencoded info dictionary.
  Digest InfoHash() const;

  // Whether `spec` binds this recipe: same blob, size, chunk size, and the root that the manifest vouches
  // for.
  bool IsBoundBy(const BlobSpec& spec) const;

  friend bool operator==(const Recipe&, const Recipe&) = default;
};

// Makes a blob's digest and its recipe in one pass over its bytes. One thread at a time.
class RecipeBuilder {
 public:
  // REQUIRES: chunk_size is a power of two in [kChunkSizeMin, kChunkSizeMax]
  explicit RecipeBuilder(uint32_t chunk_size);

  // The next bytes of the blob, in pieces of any size.
  void Update(std::span<const std::byte> bytes);

  // The recipe of all bytes given; the builder must not be used again.
  // Errors: InvalidArgument if the blob is empty or has more than kChunksPerBlobMax chunks.
  absl::StatusOr<Recipe> Finish();

 private:
  void EndLeaf();

  const uint32_t chunk_size_;
  Sha256 whole_;
  Sha256 leaf_;
  size_t leaf_bytes_ = 0;       // given to leaf_ since its start
  std::vector<Digest> leaves_;  // of the chunk under way
  std::vector<Digest> layer_;   // of the chunks before
  uint64_t size_ = 0;
};

// The leaves (BEP 52: hashes of 16 KiB blocks, the last one of what is left) of a chunk's bytes, in order.
std::vector<Digest> HashLeaves(std::span<const std::byte> bytes);

// The hash of one chunk, from its leaves, as it stands in the piece layer of a blob with this geometry; the
// root itself if the blob is one chunk. REQUIRES: leaves are those of all bytes of a chunk, so at least one
Digest FoldLeaves(const ChunkGeometry& geometry, std::vector<Digest> leaves);

// The hash of one chunk as it stands in the piece layer of a blob with this geometry; the root itself if the
// blob is one chunk. REQUIRES: bytes.size() == geometry.RangeOf(any index).length
Digest HashChunk(const ChunkGeometry& geometry, std::span<const std::byte> bytes);

}  // namespace sluice::p2p
