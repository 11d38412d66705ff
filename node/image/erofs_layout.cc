#include "node/image/erofs_layout.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "absl/strings/str_cat.h"
#include "node/image/erofs_directory.h"
#include "ondemand/erofs_image.h"

namespace sluice {
namespace {

// A chunk of 1 GiB: larger ones save nothing, and 32-bit kernels can't count them.
constexpr uint32_t kChunkPiecesMax = 1 << 14;
// A longer end of a directory gets a block of its own: beside an inode it would push that to another block,
// and leave more room unused than the block does.
constexpr uint32_t kInlineBytesMax = kBlockBytes / 2;
constexpr uint64_t kFileBytesMax = std::numeric_limits<int64_t>::max();  // Linux
constexpr uint64_t kBlocksMax = std::numeric_limits<uint32_t>::max();    // the last address means a hole

uint64_t PiecesOf(uint64_t size) {
  return (size + kPieceBytes - 1) / kPieceBytes;
}

absl::Status TooLarge(absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat("the image has more ", what, " than EROFS can count"));
}

// The kernel wants the end of a directory in one block, wherever its inode lies; a symbolic link's target in
// the block where its inode ends (Linux 5.16, erofs_fill_symlink).
bool CrossesBlock(EntryKind kind, uint64_t offset, const ErofsBody& body) {
  if (body.layout != erofs::kFlatInline) return false;
  const uint64_t payload = ErofsLayout::PayloadOffset(offset, body);
  const uint64_t first = kind == EntryKind::kSymlink ? offset + sizeof(erofs::Inode) - 1 : payload;
  return first / kBlockBytes != (payload + body.payload_bytes - 1) / kBlockBytes;
}

// Where an inode can lie from `offset` on.
uint64_t PlaceInode(EntryKind kind, uint64_t offset, const ErofsBody& body) {
  offset = AlignUp(offset, erofs::kSlotBytes);
  if (!CrossesBlock(kind, offset, body)) return offset;
  if (kind == EntryKind::kSymlink) return AlignUp(offset, kBlockBytes);
  const uint64_t payload = ErofsLayout::PayloadOffset(offset, body);
  return offset + AlignUp(AlignUp(payload, kBlockBytes) - payload, erofs::kSlotBytes);
}

}  // namespace

uint32_t ErofsChunks::format() const {
  return erofs::kChunkIndexes | static_cast<uint32_t>(std::countr_zero(pieces * kPieceBlocks));
}

ErofsChunks ChunksOf(const ContentTable::Contents& contents) {
  const uint64_t pieces = PiecesOf(contents.size);
  ErofsChunks chunks;
  // Each extent but the first begins a chunk, so that none has two places.
  uint64_t starts = kChunkPiecesMax;
  uint64_t at = 0;
  for (const Extent& extent : contents.extents) {
    starts |= at;
    at += extent.pieces;
  }
  const uint64_t largest = starts & -starts;  // the power of two that divides all of them
  chunks.pieces = static_cast<uint32_t>(std::min(largest, std::bit_ceil(pieces)));
  chunks.count = (pieces + chunks.pieces - 1) / chunks.pieces;
  return chunks;
}

ErofsLayout::ErofsLayout(const ErofsSource& source)
    : source_(source), nodes_(source.tree.nodes()), xattrs_(source.tree.xattrs()) {}

absl::Status ErofsLayout::Compute() {
  if (source_.devices.size() > ondemand::kErofsDevicesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the image has ", source_.devices.size(), " data blobs, ",
                                                   ondemand::kErofsDevicesMax, " at most can be mounted"));
  }
  SetOrder();
  for (NodeId id : order_) xattrs_.CountFile(nodes_.node(id).xattrs);
  xattrs_.Share();
  if (xattrs_.shared_bytes() / erofs::kXattrAlignment > kBlocksMax) return TooLarge("extended attributes");
  if (absl::Status valid = CheckContents(); !valid.ok()) return valid;
  if (absl::Status placed = PlaceInodes(); !placed.ok()) return placed;
  return PlaceDevices();
}

void ErofsLayout::SetOrder() {
  numbers_.assign(nodes_.places(), 0);
  order_.reserve(source_.tree.size());
  order_.push_back(source_.tree.root());
  numbers_[static_cast<size_t>(source_.tree.root())] = 1;
  for (size_t i = 0; i < order_.size(); ++i) {
    for (LinkId id = nodes_.node(order_[i]).first_child; id != LinkId::kNone; id = nodes_.link(id).next) {
      const NodeId child = nodes_.link(id).node;
      if (numbers_[static_cast<size_t>(child)]++ == 0) order_.push_back(child);
    }
  }
}

bool ErofsLayout::HasDevice(const ContentTable::Contents& contents) const {
  const uint32_t device = contents.layer < source_.device_of_layer.size()
                              ? source_.device_of_layer[contents.layer]
                              : ErofsSource::kNoDevice;
  const uint64_t blocks = device < source_.devices.size() ? BlocksOf(source_.devices[device]) : 0;
  uint64_t left = AlignUp(contents.size, kBlockBytes) / kBlockBytes;
  for (const Extent& extent : contents.extents) {
    const uint64_t of_extent = std::min(left, uint64_t{extent.pieces} * kPieceBlocks);
    if (extent.block != Extent::kHole && extent.block + of_extent > blocks) return false;
    left -= of_extent;
  }
  return left == 0;
}

absl::Status ErofsLayout::CheckContents() const {
  for (NodeId id : order_) {
    const TreeNode& node = nodes_.node(id);
    if (node.kind != EntryKind::kRegular || node.content.empty()) continue;
    const ContentTable::Contents contents = source_.contents.Get(node.content);
    if (contents.size > kFileBytesMax) return TooLarge("bytes in a file");
    if (!HasDevice(contents)) {
      return absl::InvalidArgumentError(
          absl::StrCat("contents of layer ", contents.layer, " lie outside of its data blob"));
    }
  }
  return absl::OkStatus();
}

ErofsBody ErofsLayout::BodyOf(NodeId id) const {
  const TreeNode& node = nodes_.node(id);
  ErofsBody body;
  body.xattr_bytes = xattrs_.BodyBytes(node.xattrs);
  if (node.kind == EntryKind::kRegular && !node.content.empty()) {
    const ContentTable::Contents contents = source_.contents.Get(node.content);
    body.layout = erofs::kChunkBased;
    body.size = contents.size;
    body.payload_bytes = ChunksOf(contents).count * sizeof(erofs::ChunkIndex);
  } else if (node.kind == EntryKind::kSymlink) {
    body.size = node.target.size();
    if (sizeof(erofs::Inode) + body.xattr_bytes + body.size <= kBlockBytes) {
      body.layout = erofs::kFlatInline;
      body.payload_bytes = body.size;
    } else {
      body.data_blocks = 1;
    }
  } else if (node.kind == EntryKind::kDirectory) {
    uint32_t last = 0;
    PackErofsDirectory(nodes_, id, [&](std::span<const ErofsName> names) {
      ++body.data_blocks;
      last = ErofsBlockBytes(names);
      for (const ErofsName& name : names) {
        body.subdirectories += nodes_.node(name.node).kind == EntryKind::kDirectory;
      }
    });
    body.subdirectories -= 2;  // "." and ".."
    body.size = (body.data_blocks - 1) * kBlockBytes + last;
    if (last <= kInlineBytesMax) {
      body.layout = erofs::kFlatInline;
      body.payload_bytes = last;
      --body.data_blocks;
    }
  }
  return body;
}

uint64_t ErofsLayout::PayloadOffset(uint64_t inode_offset, const ErofsBody& body) {
  const uint64_t offset = inode_offset + sizeof(erofs::Inode) + body.xattr_bytes;
  return body.layout == erofs::kChunkBased ? AlignUp(offset, sizeof(erofs::ChunkIndex)) : offset;
}

absl::Status ErofsLayout::PlaceInodes() {
  uint64_t offset =
      erofs::kSuperOffset + sizeof(erofs::SuperBlock) + source_.devices.size() * sizeof(erofs::DeviceSlot);
  uint64_t data_blocks = 0;
  for (NodeId id : order_) {
    const ErofsBody body = BodyOf(id);
    offset = PlaceInode(nodes_.node(id).kind, offset, body);
    const uint64_t number = offset / erofs::kSlotBytes;
    if (number > std::numeric_limits<uint32_t>::max()) return TooLarge("inodes");
    numbers_[static_cast<size_t>(id)] = static_cast<uint32_t>(number);
    offset = PayloadOffset(offset, body) + body.payload_bytes;
    data_blocks += body.data_blocks;
  }
  shared_xattrs_offset_ = AlignUp(offset, kBlockBytes);
  data_offset_ = AlignUp(shared_xattrs_offset_ + xattrs_.shared_bytes(), kBlockBytes);
  total_bytes_ = data_offset_ + data_blocks * kBlockBytes;
  return absl::OkStatus();
}

uint32_t ErofsLayout::BlocksOf(const ImageDevice& device) const {
  return static_cast<uint32_t>(std::min(AlignUp(device.size, kBlockBytes) / kBlockBytes, kBlocksMax));
}

absl::Status ErofsLayout::PlaceDevices() {
  // The kernel takes an image that is mounted without its devices for one that holds them in itself, at these
  // addresses: behind its end, so that it gives errors and not its own bytes.
  uint64_t block = total_bytes_ / kBlockBytes;
  for (const ImageDevice& device : source_.devices) {
    if (block > kBlocksMax) break;
    mapped_blocks_.push_back(static_cast<uint32_t>(block));
    block += BlocksOf(device);
  }
  if (block <= kBlocksMax) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the image and its data blobs have more than ", kBlocksMax,
                                                   " blocks of ", kBlockBytes,
                                                   " bytes together, which EROFS can't address"));
}

}  // namespace sluice
