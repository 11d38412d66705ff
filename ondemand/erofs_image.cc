#include "ondemand/erofs_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sluice::ondemand {
namespace {

constexpr uint64_t kSuperOffset = 1024;
constexpr uint32_t kMagic = 0xE0F5E1E2;
constexpr uint32_t kFeatureCompatChecksum = 0x1;
constexpr uint32_t kFeatureIncompatDeviceTable = 0x8;
constexpr uint8_t kBlockBitsMin = 9;
constexpr uint8_t kBlockBitsMax = 16;
constexpr size_t kTagBytes = 64;

// The disk formats, little endian; names as in erofs_fs.h.
struct SuperBlock {
  uint32_t magic;
  uint32_t checksum;
  uint32_t feature_compat;
  uint8_t blkszbits;
  uint8_t sb_extslots;
  uint16_t root_nid;
  uint64_t inos;
  uint64_t build_time;
  uint32_t build_time_nsec;
  uint32_t blocks;
  uint32_t meta_blkaddr;
  uint32_t xattr_blkaddr;
  uint8_t uuid[16];
  uint8_t volume_name[16];
  uint32_t feature_incompat;
  uint16_t compression;
  uint16_t extra_devices;
  uint16_t devt_slotoff;  // in units of a slot
  uint8_t reserved[38];
};
static_assert(sizeof(SuperBlock) == 128);
static_assert(offsetof(SuperBlock, build_time) == 24 && offsetof(SuperBlock, devt_slotoff) == 88);

struct DeviceSlot {
  char tag[kTagBytes];
  uint32_t blocks;
  uint32_t mapped_blkaddr;
  uint8_t reserved[56];
};
static_assert(sizeof(DeviceSlot) == 128);
static_assert(std::endian::native == std::endian::little, "the structures are read as they lie on disk");

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  constexpr uint32_t kCastagnoliReversed = 0x82F63B78;
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kCastagnoliReversed : 0);
    table[i] = crc;
  }
  return table;
}

uint32_t AddToCrc32c(uint32_t crc, std::span<const std::byte> bytes) {
  static constexpr std::array<uint32_t, 256> kTable = MakeCrcTable();
  for (std::byte byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint32_t>(byte)) & 0xFF];
  return crc;
}

class File {
 public:
  File(const std::string& path, int flags) : path_(path), fd_(open(path.c_str(), flags | O_CLOEXEC)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) close(fd_);
  }

  absl::Status opened() const { return fd_ >= 0 ? absl::OkStatus() : Failed("opened"); }

  absl::StatusOr<uint64_t> Size() const {
    struct stat stat;
    if (fstat(fd_, &stat) != 0) return Failed("examined");
    return static_cast<uint64_t>(stat.st_size);
  }

  absl::Status Read(uint64_t offset, void* data, size_t size) const {
    for (char* at = static_cast<char*>(data); size > 0;) {
      const ssize_t n = pread(fd_, at, size, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("read");
      if (n == 0) return Invalid("it ends too early");
      at += n;
      offset += static_cast<uint64_t>(n);
      size -= static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

  absl::Status Invalid(absl::string_view why) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, " is not an EROFS image: ", why));
  }

 private:
  absl::Status Failed(absl::string_view action) const {
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, " can't be ", action));
  }

  const std::string path_;
  const int fd_;
};

uint32_t BlockSize(const SuperBlock& super) {
  return uint32_t{1} << super.blkszbits;
}
uint64_t SlotOffset(const SuperBlock& super, uint32_t index) {
  return (uint64_t{super.devt_slotoff} + index) * sizeof(DeviceSlot);
}
uint32_t DeviceCount(const SuperBlock& super) {
  return super.feature_incompat & kFeatureIncompatDeviceTable ? super.extra_devices : 0;
}

absl::StatusOr<SuperBlock> ReadSuper(const File& file) {
  absl::StatusOr<uint64_t> size = file.Size();
  if (!size.ok()) return size.status();
  SuperBlock super;
  if (absl::Status read = file.Read(kSuperOffset, &super, sizeof(super)); !read.ok()) return read;
  if (super.magic != kMagic) return file.Invalid("the magic number is not there");
  if (super.blkszbits < kBlockBitsMin || super.blkszbits > kBlockBitsMax) {
    return file.Invalid(absl::StrCat("a block size of 2^", super.blkszbits, " bytes"));
  }
  if (uint64_t{super.blocks} * BlockSize(super) > *size) {
    return file.Invalid(absl::StrCat("it has ", *size, " bytes where ", super.blocks, " blocks of ",
                                     BlockSize(super), " belong"));
  }
  const uint32_t devices = DeviceCount(super);
  if (devices > kErofsDevicesMax) {
    return file.Invalid(absl::StrCat("it has ", devices, " devices, more than ", kErofsDevicesMax));
  }
  if (devices > 0 && (super.devt_slotoff == 0 || SlotOffset(super, devices) > *size)) {
    return file.Invalid("its device table is not inside it");
  }
  return super;
}

// Covers what is left of the block that the superblock lies in; a block of at most 1 KiB is covered whole.
absl::StatusOr<uint32_t> ComputeChecksum(const File& file, const SuperBlock& super) {
  const uint32_t block_size = BlockSize(super);
  std::vector<std::byte> bytes(block_size > kSuperOffset ? block_size - kSuperOffset : block_size);
  if (absl::Status read = file.Read(kSuperOffset, bytes.data(), bytes.size()); !read.ok()) return read;
  return ErofsChecksum(bytes);
}

absl::StatusOr<DeviceSlot> ReadSlot(const File& file, const SuperBlock& super, uint32_t index) {
  DeviceSlot slot;
  if (absl::Status read = file.Read(SlotOffset(super, index), &slot, sizeof(slot)); !read.ok()) return read;
  return slot;
}

}  // namespace

uint32_t ErofsChecksum(std::span<const std::byte> bytes) {
  constexpr size_t kFieldAt = offsetof(SuperBlock, checksum);
  constexpr std::array<std::byte, sizeof(SuperBlock::checksum)> kZeros{};
  // EROFS starts from ~0, as others do, but does not invert the result.
  uint32_t crc = AddToCrc32c(~uint32_t{0}, bytes.first(kFieldAt));
  crc = AddToCrc32c(crc, kZeros);
  return AddToCrc32c(crc, bytes.subspan(kFieldAt + kZeros.size()));
}

absl::StatusOr<ErofsInfo> ReadErofsInfo(const std::string& path) {
  const File file(path, O_RDONLY);
  if (!file.opened().ok()) return file.opened();
  absl::StatusOr<SuperBlock> super = ReadSuper(file);
  if (!super.ok()) return super.status();
  if (super->feature_compat & kFeatureCompatChecksum) {
    absl::StatusOr<uint32_t> checksum = ComputeChecksum(file, *super);
    if (!checksum.ok()) return checksum.status();
    if (*checksum != super->checksum) {
      return absl::DataLossError(
          absl::StrCat(path, ": the superblock of this EROFS image fails its checksum"));
    }
  }

  ErofsInfo info;
  info.block_size = BlockSize(*super);
  info.block_count = super->blocks;
  info.inode_count = super->inos;
  info.build_time_s = static_cast<int64_t>(super->build_time);
  for (uint32_t i = 0; i < DeviceCount(*super); ++i) {
    absl::StatusOr<DeviceSlot> slot = ReadSlot(file, *super, i);
    if (!slot.ok()) return slot.status();
    info.devices.push_back({std::string(slot->tag, strnlen(slot->tag, kTagBytes)), slot->blocks});
  }
  return info;
}

absl::Status CheckErofsDevices(const ErofsInfo& info, std::span<const BlobSpec> blobs) {
  if (info.devices.size() != blobs.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the EROFS image has ", info.devices.size(), " devices, the manifest ", blobs.size()));
  }
  for (size_t i = 0; i < blobs.size(); ++i) {
    const ErofsDevice& device = info.devices[i];
    if (device.tag != blobs[i].digest.Hex()) {
      return absl::InvalidArgumentError(
          absl::StrCat("device ", i, " of the EROFS image is \"", absl::CHexEscape(device.tag),
                       "\", in the manifest it is ", blobs[i].digest.ToString()));
    }
    const uint64_t blocks = (blobs[i].size + info.block_size - 1) / info.block_size;
    if (device.block_count > blocks) {
      return absl::InvalidArgumentError(absl::StrCat("device ", i, " of the EROFS image has ",
                                                     device.block_count, " blocks, its blob only ", blocks));
    }
  }
  return absl::OkStatus();
}

}  // namespace sluice::ondemand
