#include "p2p/registry/seek_table.h"

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

constexpr uint32_t kSkippableMagic = 0x184D2A5E;
constexpr uint32_t kSeekableMagic = 0x8F92EAB1;
constexpr size_t kHeaderBytes = 8;
constexpr size_t kFooterBytes = 9;
constexpr size_t kEntryBytes = 8;
constexpr size_t kChecksumBytes = 4;
constexpr uint8_t kChecksumFlag = 0x80;
constexpr uint8_t kReservedBits = 0x7C;

uint32_t ReadLittle(std::string_view bytes, size_t offset) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= uint32_t{static_cast<uint8_t>(bytes[offset + i])} << (8 * i);
  return value;
}

void AppendLittle(uint32_t value, std::string* out) {
  for (int shift = 0; shift < 32; shift += 8) out->push_back(static_cast<char>(value >> shift));
}

absl::Status Lies(std::string_view what) {
  return absl::DataLossError(absl::StrCat("seek table: ", absl::string_view(what.data(), what.size())));
}

// Holds the head and the foot of the table against the count of chunks; returns the bytes of an entry.
absl::StatusOr<size_t> CheckOutline(std::string_view bytes, uint32_t chunk_count) {
  if (bytes.size() < kHeaderBytes + kFooterBytes) {
    return Lies(absl::StrCat("it has ", bytes.size(), " bytes, fewer than any seek table"));
  }
  if (ReadLittle(bytes, 0) != kSkippableMagic) return Lies("it does not begin as a skippable frame of zstd");
  if (ReadLittle(bytes, bytes.size() - 4) != kSeekableMagic) return Lies("it does not end as a seek table");
  if (const uint32_t said = ReadLittle(bytes, 4); said != bytes.size() - kHeaderBytes) {
    return Lies(
        absl::StrCat("its frame says that it has ", said, " bytes; it has ", bytes.size() - kHeaderBytes));
  }
  const uint8_t descriptor = static_cast<uint8_t>(bytes[bytes.size() - 5]);
  if (descriptor & kReservedBits) return Lies("it uses what the format reserves");
  if (const uint32_t count = ReadLittle(bytes, bytes.size() - kFooterBytes); count != chunk_count) {
    return Lies(absl::StrCat("it has ", count, " frames; the blob has ", chunk_count, " chunks"));
  }
  const size_t entry_bytes = kEntryBytes + (descriptor & kChecksumFlag ? kChecksumBytes : 0);
  const size_t expected = kHeaderBytes + entry_bytes * chunk_count + kFooterBytes;
  if (bytes.size() != expected) {
    return Lies(absl::StrCat("it has ", bytes.size(), " bytes; one of ", chunk_count, " frames ",
                             descriptor & kChecksumFlag ? "with" : "without", " checksums has ", expected));
  }
  return entry_bytes;
}

// An empty frame would hold no chunk, a larger one more than any chunk needs.
absl::Status CheckFrame(uint32_t frame, uint64_t compressed, uint64_t plain_length) {
  if (compressed == 0) return Lies(absl::StrCat("frame ", frame, " has no bytes"));
  if (const uint64_t max = SeekTable::FrameBytesMax(plain_length); compressed > max) {
    return Lies(absl::StrCat("frame ", frame, " has ", compressed, " bytes; for ", plain_length,
                             " plain ones it has at most ", max));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SeekTable> SeekTable::Parse(std::string_view bytes, const ChunkGeometry& geometry,
                                           uint64_t frames_bytes) {
  const absl::StatusOr<size_t> entry_bytes = CheckOutline(bytes, geometry.chunk_count());
  if (!entry_bytes.ok()) return entry_bytes.status();
  std::vector<uint64_t> offsets;
  offsets.reserve(geometry.chunk_count() + size_t{1});
  uint64_t offset = 0;
  for (uint32_t i = 0; i < geometry.chunk_count(); ++i) {
    const size_t entry = kHeaderBytes + i * *entry_bytes;
    const uint32_t compressed = ReadLittle(bytes, entry);
    const uint32_t plain = ReadLittle(bytes, entry + 4);
    const uint64_t length = geometry.RangeOf(ChunkIndex(i)).length;
    if (plain != length) {
      return Lies(absl::StrCat("frame ", i, " has ", plain, " plain bytes; chunk ", i, " has ", length));
    }
    if (absl::Status valid = CheckFrame(i, compressed, length); !valid.ok()) return valid;
    offsets.push_back(offset);
    offset += compressed;
    if (offset > frames_bytes) {
      return Lies(
          absl::StrCat("frame ", i, " ends at ", offset, ", past the last frame's end ", frames_bytes));
    }
  }
  if (offset != frames_bytes) {
    return Lies(absl::StrCat("its frames have ", offset, " bytes; stored are ", frames_bytes));
  }
  offsets.push_back(offset);
  return SeekTable(std::move(offsets));
}

absl::StatusOr<SeekTable> SeekTable::OfOneFrame(const ChunkGeometry& geometry, uint64_t frames_bytes) {
  if (absl::Status valid = CheckFrame(0, frames_bytes, geometry.size()); !valid.ok()) return valid;
  return SeekTable({0, frames_bytes});
}

std::string SeekTable::Serialize(const ChunkGeometry& geometry, std::span<const uint32_t> frame_sizes) {
  std::string out;
  out.reserve(BytesFor(geometry.chunk_count()));
  AppendLittle(kSkippableMagic, &out);
  AppendLittle(static_cast<uint32_t>(BytesFor(geometry.chunk_count()) - kHeaderBytes), &out);
  for (uint32_t i = 0; i < geometry.chunk_count(); ++i) {
    AppendLittle(frame_sizes[i], &out);
    AppendLittle(static_cast<uint32_t>(geometry.RangeOf(ChunkIndex(i)).length), &out);
  }
  AppendLittle(geometry.chunk_count(), &out);
  out.push_back(0);  // no checksums
  AppendLittle(kSeekableMagic, &out);
  return out;
}

}  // namespace sluice::p2p
