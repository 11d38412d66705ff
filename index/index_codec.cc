#include "index/index_codec.h"

#include <algorithm>
#include <bit>
#include <concepts>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

constexpr std::string_view kBlobPrefix = "b";
constexpr std::string_view kSegmentPrefix = "s";
constexpr std::string_view kRecipePrefix = "r";

constexpr uint8_t kFlagPinned = 1;
constexpr uint8_t kFlagRoot = 2;
constexpr uint8_t kFlagAccess = 4;  // each origin is followed by how it was got; records before had none

template <std::unsigned_integral T>
void AppendLittle(T value, std::string* out) {
  for (size_t i = 0; i < sizeof(T); ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

void AppendDigest(const Digest& digest, std::string* out) {
  out->append(reinterpret_cast<const char*>(digest.bytes().data()), Digest::kBytes);
}

absl::Status Malformed(const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("index: malformed ", what));
}

// Takes fields off the front of a value. After the first failure every field reads as zero and ok() is false.
class FieldReader {
 public:
  explicit FieldReader(std::string_view rest) : rest_(rest) {}

  template <std::unsigned_integral T>
  T Little() {
    T value = 0;
    const std::string_view bytes = Bytes(sizeof(T));
    for (size_t i = 0; i < bytes.size(); ++i) {
      value = static_cast<T>(value | T{static_cast<uint8_t>(bytes[i])} << (8 * i));
    }
    return value;
  }

  std::string_view Bytes(size_t count) {
    if (rest_.size() < count) {
      ok_ = false;
      return {};
    }
    const std::string_view bytes = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return bytes;
  }

  Digest ReadDigest() {
    const std::string_view bytes = Bytes(Digest::kBytes);
    if (!ok_) return {};
    return Digest(std::span<const uint8_t, Digest::kBytes>(reinterpret_cast<const uint8_t*>(bytes.data()),
                                                           bytes.size()));
  }

  bool ok() const { return ok_; }
  bool AtEnd() const { return ok_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

std::string KeyOf(std::string_view prefix, const Digest& digest) {
  std::string key(prefix);
  key.push_back(static_cast<char>(kIndexVersion));
  AppendDigest(digest, &key);
  return key;
}

// The part of a key after prefix and version; empty if they are not what is expected.
std::string_view AfterPrefix(std::string_view key, std::string_view prefix) {
  if (!key.starts_with(prefix)) return {};
  key.remove_prefix(prefix.size());
  if (key.empty() || static_cast<uint8_t>(key.front()) != kIndexVersion) return {};
  return key.substr(1);
}

bool ValidOriginName(std::string_view name) {
  return !name.empty() && name.size() <= kOriginNameBytesMax;
}

void AppendBits(const PresenceSegment::Bits& bits, size_t bytes, std::string* out) {
  for (size_t i = 0; i < bytes; ++i) out->push_back(static_cast<char>(bits[i / 8] >> (8 * (i % 8))));
}

PresenceSegment::Bits ReadBits(std::string_view bytes) {
  PresenceSegment::Bits bits{};
  for (size_t i = 0; i < bytes.size(); ++i) {
    bits[i / 8] |= uint64_t{static_cast<uint8_t>(bytes[i])} << (8 * (i % 8));
  }
  return bits;
}

bool HasBitsFrom(const PresenceSegment::Bits& bits, uint32_t count) {
  for (uint32_t i = count; i < kSegmentChunks && i % 64 != 0; ++i) {
    if (bits[i / 64] >> (i % 64) & 1) return true;
  }
  return std::any_of(bits.begin() + (count + 63) / 64, bits.end(), [](uint64_t word) { return word != 0; });
}

bool IsSubset(const PresenceSegment::Bits& inner, const PresenceSegment::Bits& outer) {
  for (size_t i = 0; i < inner.size(); ++i) {
    if (inner[i] & ~outer[i]) return false;
  }
  return true;
}

}  // namespace

std::string_view BlobStateName(BlobState state) {
  switch (state) {
    case BlobState::kActive:
      return "active";
    case BlobState::kVerifiedWhole:
      return "verified";
    case BlobState::kRefused:
      return "refused";
  }
  return "unknown";
}

ChunkSpan SegmentIndex::ChunksIn(const ChunkGeometry& geometry) const {
  const uint64_t first = uint64_t{value_} * kSegmentChunks;
  if (first >= geometry.chunk_count()) return {ChunkIndex(geometry.chunk_count()), 0};
  const uint32_t count = std::min(kSegmentChunks, geometry.chunk_count() - static_cast<uint32_t>(first));
  return {ChunkIndex(static_cast<uint32_t>(first)), count};
}

std::string_view BlobKeyPrefix() {
  return kBlobPrefix;
}

std::string_view SegmentKeyPrefix() {
  return kSegmentPrefix;
}

std::string BlobKey(const Digest& digest) {
  return KeyOf(kBlobPrefix, digest);
}

std::string SegmentKey(const Digest& digest, SegmentIndex segment) {
  std::string key = KeyOf(kSegmentPrefix, digest);
  for (int shift = 24; shift >= 0; shift -= 8) key.push_back(static_cast<char>(segment.value() >> shift));
  return key;
}

std::string RecipeKey(const Digest& digest) {
  return KeyOf(kRecipePrefix, digest);
}

absl::StatusOr<Digest> DecodeBlobKey(std::string_view key) {
  FieldReader reader(AfterPrefix(key, kBlobPrefix));
  const Digest digest = reader.ReadDigest();
  if (!reader.AtEnd()) return Malformed("blob key");
  return digest;
}

absl::StatusOr<SegmentName> DecodeSegmentKey(std::string_view key) {
  FieldReader reader(AfterPrefix(key, kSegmentPrefix));
  const Digest digest = reader.ReadDigest();
  uint32_t position = 0;
  for (const char c : reader.Bytes(sizeof(position))) position = position << 8 | static_cast<uint8_t>(c);
  if (!reader.AtEnd() || position >= kChunksPerBlobMax / kSegmentChunks) return Malformed("segment key");
  return SegmentName{digest, SegmentIndex(position)};
}

std::string EncodeBlobRecord(const BlobRecord& record) {
  std::string out;
  AppendLittle(kIndexVersion, &out);
  AppendLittle(
      static_cast<uint8_t>((record.pinned ? kFlagPinned : 0) | (record.root ? kFlagRoot : 0) | kFlagAccess),
      &out);
  AppendLittle(static_cast<uint8_t>(record.state), &out);
  AppendLittle(record.size, &out);
  AppendLittle(record.chunk_size, &out);
  AppendLittle(static_cast<uint64_t>(record.last_access_ms), &out);
  if (record.root) AppendDigest(*record.root, &out);
  AppendLittle(static_cast<uint8_t>(record.origins.size()), &out);
  for (size_t i = 0; i < record.origins.size(); ++i) {
    for (const std::string& name : {record.origins[i].registry, record.origins[i].repository}) {
      AppendLittle(static_cast<uint16_t>(name.size()), &out);
      out.append(name);
    }
    AppendLittle(static_cast<uint8_t>(record.access[i]), &out);
  }
  return out;
}

absl::StatusOr<BlobRecord> DecodeBlobRecord(std::string_view value) {
  FieldReader reader(value);
  if (reader.Little<uint8_t>() != kIndexVersion) return Malformed("blob record: unknown version");
  const uint8_t flags = reader.Little<uint8_t>();
  const uint8_t state = reader.Little<uint8_t>();
  BlobRecord record;
  record.size = reader.Little<uint64_t>();
  record.chunk_size = reader.Little<uint32_t>();
  record.last_access_ms = static_cast<int64_t>(reader.Little<uint64_t>());
  if (flags & kFlagRoot) record.root = reader.ReadDigest();
  const uint8_t origin_count = reader.Little<uint8_t>();
  if (!reader.ok() || origin_count > kOriginsMax) return Malformed("blob record");
  for (uint8_t i = 0; i < origin_count; ++i) {
    BlobOrigin origin;
    origin.registry = reader.Bytes(reader.Little<uint16_t>());
    origin.repository = reader.Bytes(reader.Little<uint16_t>());
    if (!ValidOriginName(origin.registry) || !ValidOriginName(origin.repository)) {
      return Malformed("blob record: origin");
    }
    const uint8_t access = flags & kFlagAccess ? reader.Little<uint8_t>() : 0;
    if (access > static_cast<uint8_t>(OriginAccess::kCredentials)) return Malformed("blob record: access");
    record.origins.push_back(std::move(origin));
    record.access.push_back(static_cast<OriginAccess>(access));
  }
  if (!reader.AtEnd()) return Malformed("blob record: length");
  if (flags & ~(kFlagPinned | kFlagRoot | kFlagAccess)) return Malformed("blob record: flags");
  if (state < static_cast<uint8_t>(BlobState::kActive) || state > static_cast<uint8_t>(BlobState::kRefused)) {
    return Malformed("blob record: state");
  }
  if (record.size == 0 || !ChunkGeometry::Validate(record.size, record.chunk_size).ok()) {
    return Malformed("blob record: geometry");
  }
  record.pinned = flags & kFlagPinned;
  record.state = static_cast<BlobState>(state);
  return record;
}

std::string EncodeSegment(const PresenceSegment& segment) {
  const size_t bytes = (segment.chunk_count + 7) / 8;
  std::string out;
  AppendLittle(kIndexVersion, &out);
  AppendLittle(static_cast<uint16_t>(segment.chunk_count), &out);
  AppendBits(segment.present, bytes, &out);
  AppendBits(segment.verified, bytes, &out);
  return out;
}

absl::StatusOr<PresenceSegment> DecodeSegment(std::string_view value) {
  FieldReader reader(value);
  if (reader.Little<uint8_t>() != kIndexVersion) return Malformed("segment: unknown version");
  PresenceSegment segment;
  segment.chunk_count = reader.Little<uint16_t>();
  if (segment.chunk_count == 0 || segment.chunk_count > kSegmentChunks) return Malformed("segment: count");
  const size_t bytes = (segment.chunk_count + 7) / 8;
  segment.present = ReadBits(reader.Bytes(bytes));
  segment.verified = ReadBits(reader.Bytes(bytes));
  if (!reader.AtEnd()) return Malformed("segment: length");
  if (HasBitsFrom(segment.present, segment.chunk_count)) return Malformed("segment: bits past its end");
  if (!IsSubset(segment.verified, segment.present)) return Malformed("segment: verified but not present");
  return segment;
}

std::string EncodeRecipe(std::string_view recipe) {
  std::string out;
  AppendLittle(kIndexVersion, &out);
  out.append(recipe);
  return out;
}

absl::StatusOr<std::string> DecodeRecipe(std::string_view value) {
  FieldReader reader(value);
  if (reader.Little<uint8_t>() != kIndexVersion) return Malformed("recipe: unknown version");
  if (value.size() - 1 > kRecipeBytesMax) return Malformed("recipe: length");
  return std::string(value.substr(1));
}

}  // namespace sluice::index
