#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

// Layout 1 of a data blob: contents are cut at each 64 KiB of the file, and each piece begins on a block.
inline constexpr uint32_t kPieceBytes = 64 << 10;
inline constexpr uint32_t kBlockBytes = 4096;
inline constexpr uint32_t kPieceBlocks = kPieceBytes / kBlockBytes;

// Pieces of a file that follow one another in its layer's data blob, each but the file's last of
// kPieceBlocks; or as many pieces of zeros, which have no place there.
struct Extent {
  static constexpr uint32_t kHole = 0xffffffff;

  uint32_t block = kHole;  // of the first piece
  uint32_t pieces = 0;

  friend bool operator==(const Extent&, const Extent&) = default;
};

// The contents of one file, by their place in a ContentTable.
class ContentId {
 public:
  constexpr ContentId() = default;  // of no bytes
  constexpr explicit ContentId(uint32_t value) : value_(value) {}
  constexpr uint32_t value() const { return value_; }
  constexpr bool empty() const { return value_ == kEmpty; }
  friend bool operator==(const ContentId&, const ContentId&) = default;

 private:
  static constexpr uint32_t kEmpty = 0xffffffff;
  uint32_t value_ = kEmpty;
};

// Where the contents of an image's files lie in the data blobs of its layers. One thread at a time.
class ContentTable {
 public:
  struct Contents {
    uint64_t size = 0;                // bytes, > 0
    uint32_t layer = 0;               // counted from the lowest; whose data blob the blocks are of
    std::span<const Extent> extents;  // of all pieces, neighbours joined; valid until the next Add
  };

  // REQUIRES: size > 0; the extents have as many pieces as `size` bytes need; fewer than 2^32 - 1 contents
  ContentId Add(uint32_t layer, uint64_t size, std::span<const Extent> extents) {
    entries_.push_back({size, extents_.size(), layer, static_cast<uint32_t>(extents.size())});
    extents_.insert(extents_.end(), extents.begin(), extents.end());
    return ContentId(static_cast<uint32_t>(entries_.size() - 1));
  }

  // REQUIRES: `id` came from Add
  Contents Get(ContentId id) const {
    const Entry& entry = entries_[id.value()];
    return {entry.size, entry.layer, std::span(extents_).subspan(entry.first_extent, entry.extent_count)};
  }

  uint64_t SizeOf(ContentId id) const { return id.empty() ? 0 : entries_[id.value()].size; }

 private:
  struct Entry {
    uint64_t size;
    uint64_t first_extent;
    uint32_t layer;
    uint32_t extent_count;
  };

  std::vector<Entry> entries_;
  std::vector<Extent> extents_;
};

}  // namespace sluice
