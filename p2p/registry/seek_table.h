#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/geometry.h"

namespace sluice::p2p {

// Where the frames of a compressed blob lie: one frame a chunk, in their order, from the first stored byte to
// the seek table, which is the last thing that is stored.
// Source: zstd, contrib/seekable_format/zstd_seekable_compression_format.md, version 0.1.0.
//
// Immutable.
class SeekTable {
 public:
  // The most bytes that the frame of a chunk of `plain_size` bytes has: what zstd needs for bytes that don't
  // shrink (zstd.h, ZSTD_compressBound).
  static constexpr uint64_t FrameBytesMax(uint64_t plain_size) {
    constexpr uint64_t kSmall = 128 << 10;
    return plain_size + (plain_size >> 8) + (plain_size < kSmall ? (kSmall - plain_size) >> 11 : 0);
  }

  // The bytes that a table of a blob with so many chunks has, as Serialize writes it.
  static constexpr uint64_t BytesFor(uint32_t chunk_count) { return 17 + uint64_t{8} * chunk_count; }
  // The most that a table has: with a checksum for each frame.
  static constexpr uint64_t BytesMaxFor(uint32_t chunk_count) { return 17 + uint64_t{12} * chunk_count; }

  // Reads the table, skippable frame and all, of a blob whose plain bytes are cut as `geometry` says and
  // whose frames have `frames_bytes` bytes together: the offset of the table. Checksums of frames are passed
  // over. Errors: DataLoss, if it is no seek table, or another blob's: it says what contradicts what.
  static absl::StatusOr<SeekTable> Parse(std::string_view bytes, const ChunkGeometry& geometry,
                                         uint64_t frames_bytes);

  // The table of a blob that is one frame. REQUIRES: geometry.chunk_count() == 1
  // Errors: DataLoss, if a frame of its chunk can't have so many bytes.
  static absl::StatusOr<SeekTable> OfOneFrame(const ChunkGeometry& geometry, uint64_t frames_bytes);

  // The skippable frame that follows the frames, without checksums: a function of its arguments alone.
  // `frame_sizes` are the compressed sizes of all chunks.
  // REQUIRES: frame_sizes.size() == geometry.chunk_count()
  static std::string Serialize(const ChunkGeometry& geometry, std::span<const uint32_t> frame_sizes);

  // The stored bytes of a span of chunks. REQUIRES: span.count > 0, and it lies within the blob
  ByteRange RangeOf(ChunkSpan span) const {
    const uint64_t offset = offsets_[span.first.value()];
    return {offset, offsets_[span.end().value()] - offset};
  }
  // The stored bytes of one chunk. REQUIRES: it lies within the blob
  ByteRange RangeOf(ChunkIndex index) const { return RangeOf(ChunkSpan{index, 1}); }

  // What it takes in memory.
  size_t memory_bytes() const { return sizeof(*this) + offsets_.size() * sizeof(uint64_t); }

 private:
  explicit SeekTable(std::vector<uint64_t> offsets) : offsets_(std::move(offsets)) {}

  std::vector<uint64_t> offsets_;  // of each frame, and of the table
};

}  // namespace sluice::p2p
