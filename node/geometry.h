#pragma once

#include <algorithm>
#include <bit>
#include <compare>
#include <cstdint>

#include "absl/status/status.h"

namespace sluice {

// A range of bytes within a blob. Empty when length is 0.
struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;

  uint64_t end() const { return offset + length; }
  friend auto operator<=>(const ByteRange&, const ByteRange&) = default;
};

// The position of a chunk in its blob, counted from 0.
class ChunkIndex {
 public:
  constexpr ChunkIndex() = default;
  constexpr explicit ChunkIndex(uint32_t value) : value_(value) {}
  constexpr uint32_t value() const { return value_; }
  ChunkIndex next() const { return ChunkIndex(value_ + 1); }
  friend auto operator<=>(const ChunkIndex&, const ChunkIndex&) = default;

  template <typename H>
  friend H AbslHashValue(H h, ChunkIndex c) {
    return H::combine(std::move(h), c.value_);
  }

 private:
  uint32_t value_ = 0;
};

// `count` chunks from `first` on.
struct ChunkSpan {
  ChunkIndex first;
  uint32_t count = 0;

  ChunkIndex end() const { return ChunkIndex(first.value() + count); }
  // What is left of it from `from` on. REQUIRES: first <= from, from <= end()
  ChunkSpan From(ChunkIndex from) const { return {from, end().value() - from.value()}; }
  friend auto operator<=>(const ChunkSpan&, const ChunkSpan&) = default;
};

inline constexpr uint32_t kChunkSizeMin = 16 << 10;  // BEP 52: a piece is at least one 16 KiB block
inline constexpr uint32_t kChunkSizeDefault = 256 << 10;
inline constexpr uint32_t kChunkSizeMax = 64 << 20;
inline constexpr uint32_t kChunksPerBlobMax = 65536;
inline constexpr uint64_t kBlobSizeMax = uint64_t{kChunkSizeMax} * kChunksPerBlobMax;  // 4 TiB

// How a blob of `size` bytes is cut into chunks of `chunk_size` bytes, the last one shorter.
class ChunkGeometry {
 public:
  // REQUIRES: Validate(size, chunk_size).ok()
  constexpr ChunkGeometry(uint64_t size, uint32_t chunk_size) : size_(size), chunk_size_(chunk_size) {}

  // Errors: InvalidArgument if chunk_size is no power of two, below 16 KiB, above 64 MiB, or leaves the blob
  // with more than 65,536 chunks.
  static absl::Status Validate(uint64_t size, uint32_t chunk_size);

  // The chunk size for a blob of `size` bytes: 256 KiB, doubled until at most 65,536 chunks are left.
  static uint32_t ChunkSizeFor(uint64_t size) {
    uint64_t chunk_size = kChunkSizeDefault;
    while ((size + chunk_size - 1) / chunk_size > kChunksPerBlobMax) chunk_size *= 2;
    return static_cast<uint32_t>(std::min<uint64_t>(chunk_size, kChunkSizeMax));
  }

  uint64_t size() const { return size_; }
  uint32_t chunk_size() const { return chunk_size_; }
  uint32_t chunk_count() const { return static_cast<uint32_t>((size_ + chunk_size_ - 1) / chunk_size_); }

  // The bytes of one chunk. REQUIRES: index.value() < chunk_count()
  ByteRange RangeOf(ChunkIndex index) const {
    const uint64_t offset = uint64_t{index.value()} * chunk_size_;
    return {offset, std::min<uint64_t>(chunk_size_, size_ - offset)};
  }

  // The bytes of a span of chunks. REQUIRES: span.count > 0, span.end().value() <= chunk_count()
  ByteRange RangeOf(ChunkSpan span) const {
    const uint64_t offset = uint64_t{span.first.value()} * chunk_size_;
    return {offset, std::min<uint64_t>(uint64_t{span.count} * chunk_size_, size_ - offset)};
  }

  // The chunk that holds the byte at `offset`. REQUIRES: offset < size()
  ChunkIndex ChunkAt(uint64_t offset) const {
    return ChunkIndex(static_cast<uint32_t>(offset / chunk_size_));
  }

  // The chunks that a range touches. REQUIRES: range.length > 0, range.end() <= size()
  ChunkSpan Covering(ByteRange range) const {
    const ChunkIndex first = ChunkAt(range.offset);
    return {first, ChunkAt(range.end() - 1).value() - first.value() + 1};
  }

  // All chunks of the blob.
  ChunkSpan All() const { return {ChunkIndex(0), chunk_count()}; }

  friend bool operator==(const ChunkGeometry&, const ChunkGeometry&) = default;

 private:
  uint64_t size_;
  uint32_t chunk_size_;
};

}  // namespace sluice
