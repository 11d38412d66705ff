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
constexpr std::string_view kEarlierRecipePrefix = "r";

constexpr uint8_t kFlagPinned = 1;
constexpr uint8_t kFlagRoot = 2;
constexpr uint8_t kFlagFile = 4;
constexpr uint8_t kFlagDigest = 8;
constexpr uint8_t kFlagProven = 16;
// Each origin is followed by how it keeps the blob. Without it, as in records of before, all keep it plain.
constexpr uint8_t kFlagStored = 32;
constexpr uint8_t kFlagHearsay = 64;
constexpr uint8_t kFlagPublicAt = 128;
// Beside the state, in its byte.
constexpr uint8_t kFlagInPlace = 128;  // the file has a time of change, and follows as such
constexpr uint8_t kFlagImported = 64;
constexpr uint8_t kStateMask = 63;
// Of version 1: each origin is followed by how it was got; still earlier records had none.
constexpr uint8_t kFlagEarlierAccess = 4;

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

std::string PrefixOf(std::string_view kind, uint8_t version) {
  std::string prefix(kind);
  prefix.push_back(static_cast<char>(version));
  return prefix;
}

std::string KeyOf(std::string_view kind, const BlobKey& id) {
  std::string key = PrefixOf(kind, kIndexVersion);
  key.append(id.KeyBytes());
  return key;
}

// The part of a key after kind and version; empty if they are not what is expected.
std::string_view AfterPrefix(std::string_view key, std::string_view kind, uint8_t version) {
  const std::string prefix = PrefixOf(kind, version);
  return key.starts_with(prefix) ? key.substr(prefix.size()) : std::string_view();
}

bool ValidOriginName(std::string_view name) {
  return !name.empty() && name.size() <= kOriginNameBytesMax;
}

uint8_t ByteOf(const ChunkSet& set, size_t i) {
  return static_cast<uint8_t>(set.words()[i / 8] >> (8 * (i % 8)));
}

void AppendBits(const ChunkSet& set, std::string* out) {
  for (size_t i = 0; i < (set.chunk_count() + 7) / 8; ++i) out->push_back(static_cast<char>(ByteOf(set, i)));
}

// Returns whether no bit lies past the set's end.
bool ReadBits(std::string_view bytes, ChunkSet* set) {
  for (size_t i = 0; i < set->words().size(); ++i) {
    uint64_t word = 0;
    for (size_t j = 0; j < 8 && 8 * i + j < bytes.size(); ++j) {
      word |= uint64_t{static_cast<uint8_t>(bytes[8 * i + j])} << (8 * j);
    }
    set->SetWord(i, word);
  }
  return bytes.empty() || ByteOf(*set, bytes.size() - 1) == static_cast<uint8_t>(bytes.back());
}

BlobKey ReadBlobKey(FieldReader& reader) {
  const std::string_view bytes = reader.Bytes(BlobKey::kKeyBytes);
  return reader.ok() ? BlobKey::FromKeyBytes(bytes) : BlobKey();
}

absl::StatusOr<BlobKey> DecodeRecordKeyOf(uint8_t version, std::string_view key) {
  FieldReader reader(AfterPrefix(key, kBlobPrefix, version));
  const BlobKey id = ReadBlobKey(reader);
  if (!reader.AtEnd()) return Malformed("blob key");
  return id;
}

void AppendFile(const FileIdentity& file, std::string* out) {
  AppendLittle(file.inode, out);
  AppendLittle(static_cast<uint64_t>(file.birth_ns), out);
  out->append(reinterpret_cast<const char*>(file.mark.data()), file.mark.size());
}

FileIdentity ReadFile(FieldReader& reader) {
  FileIdentity file;
  file.inode = reader.Little<uint64_t>();
  file.birth_ns = static_cast<int64_t>(reader.Little<uint64_t>());
  const std::string_view mark = reader.Bytes(file.mark.size());
  std::copy(mark.begin(), mark.end(), file.mark.begin());
  return file;
}

enum class AccessField { kPresent, kAbsent };
enum class StoredField { kPresent, kAbsent };
enum class PublicAtField { kPresent, kAbsent };

// How an origin keeps a blob.
enum class Encoding : uint8_t { kPlain = 0, kZstd = 1, kZstdWithTable = 2 };

void AppendStored(const StoredForm* stored, std::string* out) {
  Encoding encoding = Encoding::kPlain;
  if (stored) encoding = stored->seek_table ? Encoding::kZstdWithTable : Encoding::kZstd;
  AppendLittle(static_cast<uint8_t>(encoding), out);
  if (!stored) return;
  AppendDigest(stored->digest, out);
  AppendLittle(stored->size, out);
  if (!stored->seek_table) return;
  AppendLittle(stored->seek_table->range.offset, out);
  AppendLittle(stored->seek_table->range.length, out);
  AppendDigest(stored->seek_table->digest, out);
}

// nullopt: plain.
absl::StatusOr<std::optional<StoredForm>> ReadStored(FieldReader& reader) {
  const uint8_t encoding = reader.Little<uint8_t>();
  if (encoding > static_cast<uint8_t>(Encoding::kZstdWithTable)) return Malformed("blob record: encoding");
  if (encoding == static_cast<uint8_t>(Encoding::kPlain)) return std::nullopt;
  StoredForm stored;
  stored.digest = reader.ReadDigest();
  stored.size = reader.Little<uint64_t>();
  if (stored.size == 0) return Malformed("blob record: stored size");
  if (encoding == static_cast<uint8_t>(Encoding::kZstd)) return stored;
  SeekTablePlace& place = stored.seek_table.emplace();
  place.range.offset = reader.Little<uint64_t>();
  place.range.length = reader.Little<uint64_t>();
  place.digest = reader.ReadDigest();
  if (place.range.length == 0 || place.range.length > stored.size ||
      place.range.offset != stored.size - place.range.length) {
    return Malformed("blob record: seek table");
  }
  return stored;
}

// Reads the origins, how each was got and how each keeps the blob.
absl::Status ReadOrigins(FieldReader& reader, AccessField field, StoredField stored_field,
                         PublicAtField public_at_field, BlobRecord* record) {
  const uint8_t origin_count = reader.Little<uint8_t>();
  if (!reader.ok() || origin_count > kOriginsMax) return Malformed("blob record");
  for (uint8_t i = 0; i < origin_count; ++i) {
    BlobOrigin origin;
    origin.registry = reader.Bytes(reader.Little<uint16_t>());
    origin.repository = reader.Bytes(reader.Little<uint16_t>());
    if (!ValidOriginName(origin.registry) || !ValidOriginName(origin.repository)) {
      return Malformed("blob record: origin");
    }
    const uint8_t access = field == AccessField::kPresent ? reader.Little<uint8_t>() : 0;
    if (access > static_cast<uint8_t>(OriginAccess::kCredentials)) return Malformed("blob record: access");
    if (public_at_field == PublicAtField::kPresent) {
      // 0: not known.
      if (const auto at = static_cast<int64_t>(reader.Little<uint64_t>()); at != 0)
        record->public_at_ms.emplace(origin, at);
    }
    if (stored_field == StoredField::kPresent) {
      absl::StatusOr<std::optional<StoredForm>> stored = ReadStored(reader);
      if (!stored.ok()) return stored.status();
      if (*stored) record->stored.emplace(origin, **std::move(stored));
    }
    record->origins.push_back(std::move(origin));
    record->access.push_back(static_cast<OriginAccess>(access));
  }
  return absl::OkStatus();
}

// What both versions begin with.
void ReadHead(FieldReader& reader, uint8_t flags, BlobRecord* record) {
  record->size = reader.Little<uint64_t>();
  record->chunk_size = reader.Little<uint32_t>();
  record->last_access_ms = static_cast<int64_t>(reader.Little<uint64_t>());
  record->pinned = flags & kFlagPinned;
  if (flags & kFlagRoot) record->root = reader.ReadDigest();
}

absl::Status CheckState(uint8_t state, BlobState max) {
  if (state < static_cast<uint8_t>(BlobState::kActive) || state > static_cast<uint8_t>(max)) {
    return Malformed("blob record: state");
  }
  return absl::OkStatus();
}

absl::Status CheckGeometry(const BlobRecord& record) {
  if (record.size == 0 || !ChunkGeometry::Validate(record.size, record.chunk_size).ok()) {
    return Malformed("blob record: geometry");
  }
  return absl::OkStatus();
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
    case BlobState::kLost:
      return "lost";
  }
  return "unknown";
}

ChunkSpan SegmentIndex::ChunksIn(const ChunkGeometry& geometry) const {
  const uint64_t first = uint64_t{value_} * kSegmentChunks;
  if (first >= geometry.chunk_count()) return {ChunkIndex(geometry.chunk_count()), 0};
  const uint32_t count = std::min(kSegmentChunks, geometry.chunk_count() - static_cast<uint32_t>(first));
  return {ChunkIndex(static_cast<uint32_t>(first)), count};
}

KeyKind KindOf(std::string_view key) {
  if (key.starts_with(PrefixOf(kBlobPrefix, kIndexVersion))) return KeyKind::kBlob;
  if (key.starts_with(PrefixOf(kSegmentPrefix, kIndexVersion))) return KeyKind::kSegment;
  if (key.starts_with(PrefixOf(kBlobPrefix, kEarlierIndexVersion))) return KeyKind::kEarlierBlob;
  const std::vector<std::string> earlier = EarlierPrefixes();
  const bool is_earlier = std::any_of(earlier.begin(), earlier.end(),
                                      [&](const std::string& prefix) { return key.starts_with(prefix); });
  return is_earlier ? KeyKind::kEarlierOther : KeyKind::kUnknown;
}

std::vector<std::string> EarlierPrefixes() {
  std::vector<std::string> prefixes;
  for (const std::string_view kind : {kBlobPrefix, kSegmentPrefix, kEarlierRecipePrefix}) {
    prefixes.push_back(PrefixOf(kind, kEarlierIndexVersion));
  }
  return prefixes;
}

std::string RecordKey(const BlobKey& id) {
  return KeyOf(kBlobPrefix, id);
}

std::string SegmentKey(const BlobKey& id, SegmentIndex segment) {
  std::string key = KeyOf(kSegmentPrefix, id);
  for (int shift = 24; shift >= 0; shift -= 8) key.push_back(static_cast<char>(segment.value() >> shift));
  return key;
}

absl::StatusOr<BlobKey> DecodeRecordKey(std::string_view key) {
  return DecodeRecordKeyOf(kIndexVersion, key);
}

absl::StatusOr<BlobKey> DecodeEarlierRecordKey(std::string_view key) {
  return DecodeRecordKeyOf(kEarlierIndexVersion, key);
}

absl::StatusOr<SegmentName> DecodeSegmentKey(std::string_view key) {
  FieldReader reader(AfterPrefix(key, kSegmentPrefix, kIndexVersion));
  const BlobKey id = ReadBlobKey(reader);
  uint32_t position = 0;
  for (const char c : reader.Bytes(sizeof(position))) position = position << 8 | static_cast<uint8_t>(c);
  if (!reader.AtEnd() || position >= kChunksPerBlobMax / kSegmentChunks) return Malformed("segment key");
  return SegmentName{id, SegmentIndex(position)};
}

std::string EncodeBlobRecord(const BlobRecord& record) {
  std::string out(1, static_cast<char>(kIndexVersion));
  const int flags = record.pinned * kFlagPinned | record.root.has_value() * kFlagRoot |
                    record.file.has_value() * kFlagFile | record.digest.has_value() * kFlagDigest |
                    record.proven * kFlagProven | !record.stored.empty() * kFlagStored |
                    record.is_hearsay * kFlagHearsay | !record.public_at_ms.empty() * kFlagPublicAt;
  const bool is_in_place = record.file && record.file->is_in_place();
  AppendLittle(static_cast<uint8_t>(flags), &out);
  AppendLittle(static_cast<uint8_t>(static_cast<int>(record.state) | is_in_place * kFlagInPlace |
                                    record.is_imported * kFlagImported),
               &out);
  AppendLittle(record.size, &out);
  AppendLittle(record.chunk_size, &out);
  AppendLittle(static_cast<uint64_t>(record.last_access_ms), &out);
  if (record.root) AppendDigest(*record.root, &out);
  if (record.file) AppendFile(*record.file, &out);
  if (is_in_place) AppendLittle(static_cast<uint64_t>(record.file->changed_ns), &out);
  if (record.digest) AppendDigest(*record.digest, &out);
  AppendLittle(static_cast<uint8_t>(record.origins.size()), &out);
  for (size_t i = 0; i < record.origins.size(); ++i) {
    for (const std::string& name : {record.origins[i].registry, record.origins[i].repository}) {
      AppendLittle(static_cast<uint16_t>(name.size()), &out);
      out.append(name);
    }
    AppendLittle(static_cast<uint8_t>(record.access[i]), &out);
    if (!record.public_at_ms.empty()) {
      const auto at = record.public_at_ms.find(record.origins[i]);
      AppendLittle(static_cast<uint64_t>(at == record.public_at_ms.end() ? 0 : at->second), &out);
    }
    if (record.stored.empty()) continue;
    const auto stored = record.stored.find(record.origins[i]);
    AppendStored(stored == record.stored.end() ? nullptr : &stored->second, &out);
  }
  return out;
}

absl::StatusOr<BlobRecord> DecodeBlobRecord(std::string_view value) {
  FieldReader reader(value);
  if (reader.Little<uint8_t>() != kIndexVersion) return Malformed("blob record: unknown version");
  const uint8_t flags = reader.Little<uint8_t>();
  const uint8_t state_byte = reader.Little<uint8_t>();
  const uint8_t state = state_byte & kStateMask;
  const bool is_in_place = state_byte & kFlagInPlace;
  BlobRecord record;
  ReadHead(reader, flags, &record);
  record.is_imported = state_byte & kFlagImported;
  if (flags & kFlagFile) record.file = ReadFile(reader);
  if (is_in_place) {
    if (!record.file) return Malformed("blob record: flags");
    record.file->changed_ns = static_cast<int64_t>(reader.Little<uint64_t>());
    if (!record.file->is_in_place()) return Malformed("blob record: time of change");
  }
  if (flags & kFlagDigest) record.digest = reader.ReadDigest();
  record.proven = flags & kFlagProven;
  record.is_hearsay = flags & kFlagHearsay;
  const StoredField stored = flags & kFlagStored ? StoredField::kPresent : StoredField::kAbsent;
  const PublicAtField public_at = flags & kFlagPublicAt ? PublicAtField::kPresent : PublicAtField::kAbsent;
  if (absl::Status read = ReadOrigins(reader, AccessField::kPresent, stored, public_at, &record); !read.ok())
    return read;
  if (!reader.AtEnd()) return Malformed("blob record: length");
  if ((stored == StoredField::kPresent && record.stored.empty()) ||
      (public_at == PublicAtField::kPresent && record.public_at_ms.empty()))
    return Malformed("blob record: flags");
  if (absl::Status valid = CheckState(state, BlobState::kLost); !valid.ok()) return valid;
  if (absl::Status valid = CheckGeometry(record); !valid.ok()) return valid;
  record.state = static_cast<BlobState>(state);
  return record;
}

absl::StatusOr<BlobRecord> DecodeEarlierBlobRecord(std::string_view value) {
  FieldReader reader(value);
  if (reader.Little<uint8_t>() != kEarlierIndexVersion) return Malformed("blob record: unknown version");
  const uint8_t flags = reader.Little<uint8_t>();
  const uint8_t state = reader.Little<uint8_t>();
  BlobRecord record;
  ReadHead(reader, flags, &record);
  const AccessField access = flags & kFlagEarlierAccess ? AccessField::kPresent : AccessField::kAbsent;
  if (absl::Status read = ReadOrigins(reader, access, StoredField::kAbsent, PublicAtField::kAbsent, &record);
      !read.ok())
    return read;
  if (!reader.AtEnd()) return Malformed("blob record: length");
  if (flags & ~(kFlagPinned | kFlagRoot | kFlagEarlierAccess)) return Malformed("blob record: flags");
  if (absl::Status valid = CheckState(state, BlobState::kRefused); !valid.ok()) return valid;
  if (absl::Status valid = CheckGeometry(record); !valid.ok()) return valid;
  // What was refused begins anew like all else, but for the readers of a mount that has outlived it.
  record.state = state == static_cast<uint8_t>(BlobState::kRefused) ? BlobState::kLost : BlobState::kActive;
  return record;
}

std::string EncodeSegment(const PresenceSegment& segment) {
  std::string out;
  AppendLittle(kIndexVersion, &out);
  AppendLittle(static_cast<uint16_t>(segment.chunk_count()), &out);
  AppendBits(segment.present, &out);
  AppendBits(segment.verified, &out);
  return out;
}

absl::StatusOr<PresenceSegment> DecodeSegment(std::string_view value) {
  FieldReader reader(value);
  if (reader.Little<uint8_t>() != kIndexVersion) return Malformed("segment: unknown version");
  const uint16_t count = reader.Little<uint16_t>();
  if (count == 0 || count > kSegmentChunks) return Malformed("segment: count");
  PresenceSegment segment(count);
  const std::string_view present = reader.Bytes((count + 7u) / 8);
  const std::string_view verified = reader.Bytes((count + 7u) / 8);
  if (!reader.AtEnd()) return Malformed("segment: length");
  if (!ReadBits(present, &segment.present) || !ReadBits(verified, &segment.verified)) {
    return Malformed("segment: bits past its end");
  }
  if (!segment.verified.IsSubsetOf(segment.present)) return Malformed("segment: verified but not present");
  return segment;
}

}  // namespace sluice::index
