#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "index/file_identity.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/chunk_set.h"
#include "node/digest.h"
#include "node/geometry.h"
#include "node/origin_access.h"

namespace sluice::index {

// The keys and values of the index. All functions are pure. Decoding is strict: what was not written by the
// encoder of the same version is InvalidArgument, never a guess. Numbers in values are little-endian; in keys
// big-endian, so that segments sort by position.
//
// Version 1 did not say which file its claims were made over, so they prove nothing: only its records of
// blobs are read.
inline constexpr uint8_t kIndexVersion = 2;
inline constexpr uint8_t kEarlierIndexVersion = 1;

enum class BlobState : uint8_t {
  kActive = 1,         // chunks are proven one by one, or not yet
  kVerifiedWhole = 2,  // the whole file matched the blob's digest
  kRefused = 3,        // the whole file did not match: never served again, until it is evicted
  kLost = 4,           // its file was lost under a mount, whose readers are refused for as long as it lives
};
std::string_view BlobStateName(BlobState state);

inline constexpr size_t kOriginsMax = 16;           // kept per blob: the newest
inline constexpr size_t kOriginNameBytesMax = 512;  // of a registry, and of a repository

struct BlobRecord {
  std::optional<Digest> digest;  // if it is kept by another name than that
  uint64_t size = 0;
  uint32_t chunk_size = 0;
  std::optional<Digest> root;
  std::vector<BlobOrigin> origins;   // the newest first
  std::vector<OriginAccess> access;  // of each origin
  // When some of them were last found to give it to everybody: wall clock, milliseconds since 1970.
  std::map<BlobOrigin, int64_t> public_at_ms;
  std::map<BlobOrigin, StoredForm> stored;  // how those of them keep it that don't keep it plain
  std::optional<FileIdentity> file;         // that the claims hold for; none: no claim holds
  BlobState state = BlobState::kActive;
  bool proven = false;  // the whole blob was hashed once: size is right, and root if there is one
  bool pinned = false;
  bool is_hearsay = false;     // only other nodes say so
  bool is_imported = false;    // it came from containerd's content store, by no registry's word
  int64_t last_access_ms = 0;  // wall clock, milliseconds since 1970

  friend bool operator==(const BlobRecord&, const BlobRecord&) = default;
};

// One bit per chunk, for kSegmentChunks chunks of a blob or for the fewer that its last segment has.
inline constexpr uint32_t kSegmentChunks = 4096;
struct PresenceSegment {
  explicit PresenceSegment(uint32_t chunk_count) : present(chunk_count), verified(chunk_count) {}

  ChunkSet present;   // the chunk's bytes are on disk
  ChunkSet verified;  // and proven; a subset of `present`

  uint32_t chunk_count() const { return present.chunk_count(); }  // 1 to kSegmentChunks

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

std::string RecordKey(const BlobKey& id);
std::string SegmentKey(const BlobKey& id, SegmentIndex segment);

// What a key names. A key of neither version is kUnknown: whoever wrote it may have meant that others don't
// hold any more.
enum class KeyKind { kBlob, kSegment, kEarlierBlob, kEarlierOther, kUnknown };
KeyKind KindOf(std::string_view key);
// All keys of the earlier version start with one of these; no other keys do.
std::vector<std::string> EarlierPrefixes();

absl::StatusOr<BlobKey> DecodeRecordKey(std::string_view key);
absl::StatusOr<BlobKey> DecodeEarlierRecordKey(std::string_view key);
struct SegmentName {
  BlobKey id;
  SegmentIndex segment;
};
absl::StatusOr<SegmentName> DecodeSegmentKey(std::string_view key);

// REQUIRES: at most kOriginsMax origins, names of 1 to kOriginNameBytesMax bytes, as many accesses as
// origins, `stored` of origins only
std::string EncodeBlobRecord(const BlobRecord& record);
absl::StatusOr<BlobRecord> DecodeBlobRecord(std::string_view value);
// A record of version 1, with no file: active, or lost if it was refused.
absl::StatusOr<BlobRecord> DecodeEarlierBlobRecord(std::string_view value);

std::string EncodeSegment(const PresenceSegment& segment);
absl::StatusOr<PresenceSegment> DecodeSegment(std::string_view value);

}  // namespace sluice::index
