#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "node/digest.h"
#include "node/image/content_table.h"
#include "node/image/erofs_format.h"
#include "node/image/erofs_xattr.h"
#include "node/image/image_tree.h"

namespace sluice {

// A data blob that an image reads from.
struct ImageDevice {
  Digest digest;  // of the plain bytes
  uint64_t size = 0;
};

// What an image is made of. All of it outlives whoever is given it.
struct ErofsSource {
  static constexpr uint32_t kNoDevice = 0xffffffff;

  const ImageTree& tree;  // finished
  const ContentTable& contents;
  std::span<const ImageDevice> devices;
  // By layer, as ContentTable counts them: the place of its blob among `devices`, or kNoDevice. Layers may
  // share one.
  std::span<const uint32_t> device_of_layer;
};

// How the contents of a regular file are told in an image: chunks of one size, each in one piece.
struct ErofsChunks {
  uint32_t pieces = 1;  // that a chunk has, a power of two
  uint64_t count = 0;

  uint32_t format() const;  // erofs_inode_chunk_info.format
};
// The fewest chunks that tell where each piece is. REQUIRES: `contents` has bytes
ErofsChunks ChunksOf(const ContentTable::Contents& contents);

// What follows a file's inode, and what lies apart from it.
struct ErofsBody {
  erofs::Layout layout = erofs::kFlatPlain;
  uint64_t size = 0;           // i_size
  uint32_t xattr_bytes = 0;    // first after the inode
  uint64_t payload_bytes = 0;  // then this: chunk indexes, the end of a directory, a link's target
  uint64_t data_blocks = 0;    // and these, apart
  uint32_t subdirectories = 0;
};

// Where each part of an image lies: superblock, device table, inodes (the root's first, then directory by
// directory), shared attributes, directories' full blocks; blocks of kBlockBytes. A function of the source.
class ErofsLayout {
 public:
  // `source` outlives the layout.
  explicit ErofsLayout(const ErofsSource& source);

  // Errors: InvalidArgument (more than 500 devices, contents that no device has), ResourceExhausted (over
  // what EROFS can count).
  absl::Status Compute();

  const ErofsXattrs& xattrs() const { return xattrs_; }
  // All files, in the order of their inodes.
  const std::vector<NodeId>& order() const { return order_; }
  uint64_t NumberOf(NodeId id) const { return numbers_[static_cast<size_t>(id)]; }
  uint64_t InodeOffset(NodeId id) const { return NumberOf(id) * erofs::kSlotBytes; }
  ErofsBody BodyOf(NodeId id) const;
  static uint64_t PayloadOffset(uint64_t inode_offset, const ErofsBody& body);

  uint64_t shared_xattrs_offset() const { return shared_xattrs_offset_; }
  uint64_t data_offset() const { return data_offset_; }
  uint64_t total_bytes() const { return total_bytes_; }
  uint32_t BlocksOf(const ImageDevice& device) const;
  // Of a device's blocks, in the addresses that all devices share: behind the image's own.
  uint32_t MappedBlock(size_t device) const { return mapped_blocks_[device]; }

 private:
  void SetOrder();
  bool HasDevice(const ContentTable::Contents& contents) const;
  absl::Status CheckContents() const;
  absl::Status PlaceInodes();
  absl::Status PlaceDevices();

  const ErofsSource& source_;
  const TreeNodes& nodes_;
  ErofsXattrs xattrs_;
  std::vector<NodeId> order_;
  std::vector<uint32_t> numbers_;  // by NodeId: the offset in units of kSlotBytes
  std::vector<uint32_t> mapped_blocks_;
  uint64_t shared_xattrs_offset_ = 0;
  uint64_t data_offset_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace sluice
