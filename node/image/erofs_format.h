#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "node/image/content_table.h"

namespace sluice {

constexpr uint64_t AlignUp(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// What an EROFS image consists of on disk, little endian, as far as we write it.
// Source: Linux fs/erofs/erofs_fs.h, whose names these are.
namespace erofs {

static_assert(std::endian::native == std::endian::little, "the structures are written as they lie in memory");

inline constexpr uint32_t kMagic = 0xE0F5E1E2;
inline constexpr uint64_t kSuperOffset = 1024;
inline constexpr uint8_t kBlockBits = 12;
static_assert(kBlockBytes == 1 << kBlockBits);
inline constexpr uint32_t kNullAddress = 0xffffffff;  // of a chunk that is a hole
inline constexpr uint32_t kSlotBytes = 32;            // inodes lie at multiples of it, and are numbered by it
inline constexpr uint32_t kXattrAlignment = 4;

inline constexpr uint32_t kCompatChecksum = 0x1;
inline constexpr uint32_t kCompatMtime = 0x2;
inline constexpr uint32_t kIncompatChunkedFile = 0x4;
inline constexpr uint32_t kIncompatDeviceTable = 0x8;

struct SuperBlock {
  uint32_t magic = kMagic;
  uint32_t checksum = 0;
  uint32_t feature_compat = 0;
  uint8_t blkszbits = kBlockBits;
  uint8_t sb_extslots = 0;
  uint16_t root_nid = 0;
  uint64_t inos = 0;
  uint64_t build_time = 0;
  uint32_t build_time_nsec = 0;
  uint32_t blocks = 0;
  uint32_t meta_blkaddr = 0;
  uint32_t xattr_blkaddr = 0;
  uint8_t uuid[16] = {};
  uint8_t volume_name[16] = {};
  uint32_t feature_incompat = 0;
  uint16_t compression = 0;
  uint16_t extra_devices = 0;
  uint16_t devt_slotoff = 0;  // in units of a DeviceSlot
  uint8_t reserved[38] = {};
};
static_assert(sizeof(SuperBlock) == 128);

struct DeviceSlot {
  char tag[64] = {};
  uint32_t blocks = 0;
  uint32_t mapped_blkaddr = 0;
  uint8_t reserved[56] = {};
};
static_assert(sizeof(DeviceSlot) == 128);

enum Layout : uint16_t { kFlatPlain = 0, kFlatInline = 2, kChunkBased = 4 };
inline constexpr uint16_t kExtendedInode = 1;
inline constexpr int kLayoutShift = 1;
inline constexpr uint32_t kChunkIndexes = 0x20;  // in an inode's chunk format, beside the bits of a chunk

struct Inode {  // erofs_inode_extended
  uint16_t i_format = kExtendedInode;
  uint16_t i_xattr_icount = 0;
  uint16_t i_mode = 0;
  uint16_t i_reserved = 0;
  uint64_t i_size = 0;
  uint32_t i_u = 0;  // block of data, device number or chunk format
  uint32_t i_ino = 0;
  uint32_t i_uid = 0;
  uint32_t i_gid = 0;
  int64_t i_mtime = 0;
  uint32_t i_mtime_nsec = 0;
  uint32_t i_nlink = 0;
  uint8_t i_reserved2[16] = {};
};
static_assert(sizeof(Inode) == 64);

struct ChunkIndex {
  uint16_t advise = 0;
  uint16_t device_id = 0;  // counted from 1; 0 is the image itself
  uint32_t blkaddr = kNullAddress;
};
static_assert(sizeof(ChunkIndex) == 8);

struct XattrHeader {  // erofs_xattr_ibody_header, before the numbers of shared attributes
  uint32_t h_reserved = 0;
  uint8_t h_shared_count = 0;
  uint8_t h_reserved2[7] = {};
};
static_assert(sizeof(XattrHeader) == 12);

struct XattrEntry {
  uint8_t e_name_len = 0;
  uint8_t e_name_index = 0;
  uint16_t e_value_size = 0;
};
static_assert(sizeof(XattrEntry) == 4);

#pragma pack(push, 1)
struct Dirent {
  uint64_t nid = 0;
  uint16_t nameoff = 0;
  uint8_t file_type = 0;
  uint8_t reserved = 0;
};
#pragma pack(pop)
static_assert(sizeof(Dirent) == 12);

}  // namespace erofs
}  // namespace sluice
