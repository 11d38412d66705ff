#include "node/image/erofs_writer.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "node/image/erofs_directory.h"
#include "node/image/file_bytes.h"
#include "ondemand/erofs_image.h"

namespace sluice {
namespace {

constexpr size_t kBufferBytes = 1 << 20;
// Nobody looks a file system of ours up by UUID, and a random one would make each build another image.
constexpr std::array<uint8_t, 16> kUuid = {0x73, 0x6c, 0x75, 0x69, 0x63, 0x65, 0x40, 0, 0x80};

uint16_t ModeOf(const TreeNode& node) {
  switch (node.kind) {
    case EntryKind::kDirectory:
      return S_IFDIR | node.permissions;
    case EntryKind::kSymlink:
      return S_IFLNK | node.permissions;
    case EntryKind::kCharDevice:
      return S_IFCHR | node.permissions;
    case EntryKind::kBlockDevice:
      return S_IFBLK | node.permissions;
    case EntryKind::kFifo:
      return S_IFIFO | node.permissions;
    case EntryKind::kSocket:
      return S_IFSOCK | node.permissions;
    default:
      return S_IFREG | node.permissions;
  }
}

// The kernel's new_encode_dev.
uint32_t DeviceNumber(const TreeNode& node) {
  return (node.device_minor & 0xff) | node.device_major << 8 | (node.device_minor & ~uint32_t{0xff}) << 12;
}

// Bytes to a file in order, its beginning held back until the superblock's checksum is known.
class Output {
 public:
  Output(int file, const std::string& path) : file_(file), path_(path) { buffer_.reserve(kBufferBytes); }

  uint64_t offset() const { return flushed_ + buffer_.size(); }

  absl::Status Append(const void* bytes, size_t size) {
    const char* at = static_cast<const char*>(bytes);
    while (size > 0) {
      const size_t n = std::min(size, kBufferBytes - buffer_.size());
      buffer_.insert(buffer_.end(), at, at + n);
      at += n;
      size -= n;
      if (buffer_.size() < kBufferBytes) continue;
      if (absl::Status flushed = Flush(); !flushed.ok()) return flushed;
    }
    return absl::OkStatus();
  }
  template <typename T>
  absl::Status Append(const T& value) {
    return Append(&value, sizeof(value));
  }
  absl::Status Append(std::string_view text) { return Append(text.data(), text.size()); }
  absl::Status Append(const std::vector<char>& bytes) { return Append(bytes.data(), bytes.size()); }

  // REQUIRES: `end` is not before the offset
  absl::Status PadTo(uint64_t end) {
    static constexpr std::array<char, kBlockBytes> kZeros{};
    while (offset() < end) {
      absl::Status padded = Append(kZeros.data(), std::min<uint64_t>(end - offset(), kZeros.size()));
      if (!padded.ok()) return padded;
    }
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (flushed_ == 0 && buffer_.size() >= kBlockBytes) SetChecksum();
    absl::Status written = WriteAll(file_, std::as_bytes(std::span(buffer_)), path_);
    flushed_ += buffer_.size();
    buffer_.clear();
    return written;
  }

 private:
  // Of what is left of the first block, as the kernel computes it.
  void SetChecksum() {
    const std::span<char> block =
        std::span(buffer_).subspan(erofs::kSuperOffset, kBlockBytes - erofs::kSuperOffset);
    const uint32_t checksum = ondemand::ErofsChecksum(std::as_bytes(block));
    std::memcpy(block.data() + offsetof(erofs::SuperBlock, checksum), &checksum, sizeof(checksum));
  }

  const int file_;
  const std::string& path_;
  std::vector<char> buffer_;
  uint64_t flushed_ = 0;
};

// Writes the parts of an image one after another.
class Writer {
 public:
  Writer(const ErofsSource& source, const ErofsLayout& layout, Output& output)
      : source_(source), nodes_(source.tree.nodes()), layout_(layout), output_(output) {}

  absl::Status Write() {
    if (absl::Status written = WriteSuper(); !written.ok()) return written;
    if (absl::Status written = WriteDevices(); !written.ok()) return written;
    next_data_block_ = layout_.data_offset() / kBlockBytes;
    for (NodeId id : layout_.order()) {
      if (absl::Status written = WriteInode(id); !written.ok()) return written;
    }
    if (absl::Status written = WriteSharedXattrs(); !written.ok()) return written;
    if (absl::Status padded = output_.PadTo(layout_.data_offset()); !padded.ok()) return padded;
    for (NodeId id : layout_.order()) {
      if (absl::Status written = WriteData(id); !written.ok()) return written;
    }
    return output_.PadTo(layout_.total_bytes());
  }

 private:
  absl::Status WriteSuper() {
    erofs::SuperBlock super;
    super.feature_compat = erofs::kCompatChecksum | erofs::kCompatMtime;
    super.feature_incompat = erofs::kIncompatChunkedFile | erofs::kIncompatDeviceTable;
    // The root comes first, so that its number fits: the device table takes 64 KB at most.
    super.root_nid = static_cast<uint16_t>(layout_.NumberOf(source_.tree.root()));
    super.inos = source_.tree.size();
    super.blocks = static_cast<uint32_t>(layout_.total_bytes() / kBlockBytes);
    if (layout_.xattrs().shared_bytes() > 0) {
      super.xattr_blkaddr = static_cast<uint32_t>(layout_.shared_xattrs_offset() / kBlockBytes);
    }
    std::ranges::copy(kUuid, super.uuid);
    super.extra_devices = static_cast<uint16_t>(source_.devices.size());
    super.devt_slotoff = (erofs::kSuperOffset + sizeof(super)) / sizeof(erofs::DeviceSlot);
    if (absl::Status padded = output_.PadTo(erofs::kSuperOffset); !padded.ok()) return padded;
    return output_.Append(super);
  }

  absl::Status WriteDevices() {
    for (size_t i = 0; i < source_.devices.size(); ++i) {
      erofs::DeviceSlot slot;
      const std::string hex = source_.devices[i].digest.Hex();
      std::memcpy(slot.tag, hex.data(), sizeof(slot.tag));
      slot.blocks = layout_.BlocksOf(source_.devices[i]);
      slot.mapped_blkaddr = layout_.MappedBlock(i);
      if (absl::Status written = output_.Append(slot); !written.ok()) return written;
    }
    return absl::OkStatus();
  }

  absl::Status WriteInode(NodeId id) {
    const TreeNode& node = nodes_.node(id);
    const ErofsBody body = layout_.BodyOf(id);
    const uint64_t offset = layout_.InodeOffset(id);
    if (absl::Status padded = output_.PadTo(offset); !padded.ok()) return padded;
    if (absl::Status written = output_.Append(MakeInode(node, body)); !written.ok()) return written;
    next_data_block_ += body.data_blocks;
    scratch_.clear();
    layout_.xattrs().AppendBody(node.xattrs, scratch_);
    if (absl::Status written = output_.Append(scratch_); !written.ok()) return written;
    if (absl::Status padded = output_.PadTo(ErofsLayout::PayloadOffset(offset, body)); !padded.ok()) {
      return padded;
    }
    if (body.layout == erofs::kChunkBased) return WriteChunks(source_.contents.Get(node.content));
    if (body.layout != erofs::kFlatInline) return absl::OkStatus();
    if (node.kind == EntryKind::kSymlink) return output_.Append(node.target);
    PackErofsDirectory(nodes_, id, [&](std::span<const ErofsName> names) { Encode(names); });
    return output_.Append(scratch_);  // the last block
  }

  erofs::Inode MakeInode(const TreeNode& node, const ErofsBody& body) {
    erofs::Inode inode;
    inode.i_format = static_cast<uint16_t>(erofs::kExtendedInode | body.layout << erofs::kLayoutShift);
    inode.i_xattr_icount = ErofsXattrs::CountOf(body.xattr_bytes);
    inode.i_mode = ModeOf(node);
    inode.i_size = body.size;
    if (body.layout == erofs::kChunkBased) {
      inode.i_u = ChunksOf(source_.contents.Get(node.content)).format();
    } else if (node.kind == EntryKind::kCharDevice || node.kind == EntryKind::kBlockDevice) {
      inode.i_u = DeviceNumber(node);
    } else if (body.data_blocks > 0) {
      inode.i_u = static_cast<uint32_t>(next_data_block_);
    }
    inode.i_ino = ++inodes_;
    inode.i_uid = node.uid;
    inode.i_gid = node.gid;
    inode.i_mtime = node.mtime_s;
    inode.i_mtime_nsec = node.mtime_ns;
    inode.i_nlink = node.kind == EntryKind::kDirectory ? 2 + body.subdirectories : node.link_count;
    return inode;
  }

  absl::Status WriteChunks(const ContentTable::Contents& contents) {
    const ErofsChunks chunks = ChunksOf(contents);
    const uint32_t device = contents.layer < source_.device_of_layer.size()
                                ? source_.device_of_layer[contents.layer] + 1  // 0 is the image itself
                                : 0;
    for (const Extent& extent : contents.extents) {
      for (uint64_t piece = 0; piece < extent.pieces; piece += chunks.pieces) {
        erofs::ChunkIndex index;
        if (extent.block != Extent::kHole) {
          index.device_id = static_cast<uint16_t>(device);
          index.blkaddr = static_cast<uint32_t>(extent.block + piece * kPieceBlocks);
        }
        if (absl::Status written = output_.Append(index); !written.ok()) return written;
      }
    }
    return absl::OkStatus();
  }

  absl::Status WriteSharedXattrs() {
    if (absl::Status padded = output_.PadTo(layout_.shared_xattrs_offset()); !padded.ok()) return padded;
    for (XattrId id : layout_.xattrs().shared()) {
      scratch_.clear();
      layout_.xattrs().AppendEntry(id, scratch_);
      if (absl::Status written = output_.Append(scratch_); !written.ok()) return written;
    }
    return absl::OkStatus();
  }

  absl::Status WriteData(NodeId id) {
    const TreeNode& node = nodes_.node(id);
    if (node.kind != EntryKind::kDirectory && node.kind != EntryKind::kSymlink) return absl::OkStatus();
    uint64_t left = layout_.BodyOf(id).data_blocks;
    if (left == 0) return absl::OkStatus();
    if (node.kind == EntryKind::kSymlink) {
      if (absl::Status written = output_.Append(node.target); !written.ok()) return written;
      return output_.PadTo(AlignUp(output_.offset(), kBlockBytes));
    }
    absl::Status status;
    PackErofsDirectory(nodes_, id, [&](std::span<const ErofsName> names) {
      if (left == 0 || !status.ok()) return;  // the end of it lies beside its inode
      --left;
      Encode(names);
      scratch_.resize(kBlockBytes);
      status = output_.Append(scratch_);
    });
    return status;
  }

  void Encode(std::span<const ErofsName> names) {
    EncodeErofsBlock(
        nodes_, names, [this](NodeId id) { return layout_.NumberOf(id); }, scratch_);
  }

  const ErofsSource& source_;
  const TreeNodes& nodes_;
  const ErofsLayout& layout_;
  Output& output_;
  std::vector<char> scratch_;
  uint64_t next_data_block_ = 0;  // for the inodes; the blocks themselves follow in the same order
  uint32_t inodes_ = 0;
};

}  // namespace

absl::StatusOr<uint64_t> WriteErofsImage(const ErofsSource& source, int file, const std::string& path) {
  ErofsLayout layout(source);
  if (absl::Status computed = layout.Compute(); !computed.ok()) return computed;
  Output output(file, path);
  if (absl::Status written = Writer(source, layout, output).Write(); !written.ok()) return written;
  if (absl::Status flushed = output.Flush(); !flushed.ok()) return flushed;
  return layout.total_bytes();
}

}  // namespace sluice
