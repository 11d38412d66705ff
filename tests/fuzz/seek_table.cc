#include "p2p/registry/seek_table.h"

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "taken.h"

using sluice::ChunkGeometry;
using sluice::ChunkIndex;
using sluice::p2p::SeekTable;

namespace {

sluice::fuzz::Parser parser("seek tables");

void Require(bool holds) {
  if (!holds) std::abort();
}

// The first bytes say how the blob is cut; the table follows.
constexpr size_t kHeadBytes = 8;

uint32_t ReadLittle(const uint8_t* data) {
  return uint32_t{data[0]} | uint32_t{data[1]} << 8 | uint32_t{data[2]} << 16 | uint32_t{data[3]} << 24;
}

}  // namespace

// What is taken covers the stored bytes without a gap, and is written as it was read but for checksums.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kHeadBytes) return 0;
  const uint32_t plain_size = ReadLittle(data);
  const uint32_t frames_bytes = ReadLittle(data + 4);
  if (plain_size == 0 || !ChunkGeometry::Validate(plain_size, sluice::kChunkSizeMin).ok()) return 0;
  const ChunkGeometry geometry(plain_size, sluice::kChunkSizeMin);
  const std::string_view bytes(reinterpret_cast<const char*>(data) + kHeadBytes, size - kHeadBytes);
  const absl::StatusOr<SeekTable> table = SeekTable::Parse(bytes, geometry, frames_bytes);
  if (!table.ok()) return 0;
  parser.Took();
  std::vector<uint32_t> sizes;
  uint64_t end = 0;
  for (uint32_t i = 0; i < geometry.chunk_count(); ++i) {
    const sluice::ByteRange frame = table->RangeOf(ChunkIndex(i));
    Require(frame.offset == end && frame.length > 0);
    end = frame.end();
    sizes.push_back(static_cast<uint32_t>(frame.length));
  }
  Require(end == frames_bytes);
  const std::string written = SeekTable::Serialize(geometry, sizes);
  Require(bytes.size() == SeekTable::BytesMaxFor(geometry.chunk_count()) ||
          (written.size() == bytes.size() &&
           written.substr(0, written.size() - 5) == bytes.substr(0, written.size() - 5)));
  return 0;
}
