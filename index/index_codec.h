#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/geometry.h"
#include "node/origin_access.h"

namespace sluice::index {

// The keys and values of the index. All functions are pure. Decoding is strict: what was not written by the
// encoder of the same version is InvalidArgument, never a guess. Numbers in values are little-endian; in keys
// big-endian, so that segments sort by position.
inline constexpr uint8_t kIndexVersion = 1;

enum class BlobState : uint8_t {
  kActive = 1,         // chunks are proven one by one, or not yet
  kVerifiedWhole = 2,  // the whole file matched the blob's digest
  kRefused = 3,        // the whole file did not match: never served again, until it is evicted
};
std::string_view BlobStateName(BlobState state);

inline constexpr size_t kOriginsMax = 16;           // kept per blob; later ones are not recorded
inline constexpr size_t kOriginNameBytesMax = 512;  // of a registry, and of a repository
inline constexpr size_t kRecipeBytesMax = 4 << 20;  // 65,536 hashes are 2 MiB

struct BlobRecord {
  uint64_t size = 0;
  uint32_t chunk_size = 0;
  std::optional<Digest> root;
  std::vector<BlobOrigin> origins;
  std::vector<OriginAccess> access;  // of each origin
  BlobState state = BlobState::kActive;
  bool pinned = false;
  int64_t last_access_ms = 0;  // wall clock, milliseconds since 1970

  friend bool operator==(const BlobRecord&, const BlobRecord&) = default;
};

// One bit per chunk, for kSegmentChunks chunks of a blob or for the fewer that its last segment has.
inline constexpr uint32_t kSegmentChunks = 4096;
struct PresenceSegment {
  using Bits = std::array<uint64_t, kSegmentChunks / 64>;

  uint32_t chunk_count = 0;  // 1 to kSegmentChunks
  Bits present{};            // the chunk's bytes are on disk
  Bits verified{};           // and proven; a subset of `present`

  friend bool operator==(const PresenceSegment&, const PresenceSegment&) = default;
};

// The position of a segment in its blob, counted from 0.
class SegmentIndex {
 public:
  constexpr explicit SegmentIndex(uint32_t value = 0) : value_(value) {}
  static constexpr SegmentIndex Of(ChunkIndex chunk) { return SegmentIndex(chunk.value() / kSegmentChunks); }
  constexpr uint32_t value() const { return value_; }
  // The chunks of the segment in a blob of `geometry`; count is 0 past its end.
  ChunkSpan ChunksIn(const ChunkGeometry& geometry) const;
  static uint32_t CountIn(const ChunkGeometry& geometry) {
    return (geometry.chunk_count() + kSegmentChunks - 1) / kSegmentChunks;
  }
  friend auto operator<=>(const SegmentIndex&, const SegmentIndex&) = default;

 private:
  uint32_t value_;
};

std::string BlobKey(const Digest& digest);
std::string SegmentKey(const Digest& digest, SegmentIndex segment);
std::string RecipeKey(const Digest& digest);
// All keys of blobs, and of segments, start with these; no other keys do.
std::string_view BlobKeyPrefix();
std::string_view SegmentKeyPrefix();

absl::StatusOr<Digest> DecodeBlobKey(std::string_view key);
struct SegmentName {
  Digest digest;
  SegmentIndex segment;
};
absl::StatusOr<SegmentName> DecodeSegmentKey(std::string_view key);

// REQUIRES: at most kOriginsMax origins, names of 1 to kOriginNameBytesMax bytes, as many accesses as origins
std::string EncodeBlobRecord(const BlobRecord& record);
absl::StatusOr<BlobRecord> DecodeBlobRecord(std::string_view value);

std::string EncodeSegment(const PresenceSegment& segment);
absl::StatusOr<PresenceSegment> DecodeSegment(std::string_view value);

// REQUIRES: recipe.size() <= kRecipeBytesMax
std::string EncodeRecipe(std::string_view recipe);
absl::StatusOr<std::string> DecodeRecipe(std::string_view value);

}  // namespace sluice::index
