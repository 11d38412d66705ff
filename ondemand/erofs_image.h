#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"

namespace sluice::ondemand {

inline constexpr uint32_t kErofsDevicesMax = 500;

// A further device (data blob) that an EROFS image refers to.
struct ErofsDevice {
  std::string tag;           // as it stands in the image, trailing zero bytes left out; ours is 64 hex digits
  uint64_t block_count = 0;  // that the image may read of it
};

// What the superblock and the device table of an EROFS image say.
// Source: Linux fs/erofs/erofs_fs.h, struct erofs_super_block and struct erofs_deviceslot.
struct ErofsInfo {
  uint32_t block_size = 0;   // bytes
  uint64_t block_count = 0;  // of the image itself, without its devices
  uint64_t inode_count = 0;
  int64_t build_time_s = 0;  // since 1970
  std::vector<ErofsDevice> devices;
};

// The checksum of a superblock: of what is left of its block from the superblock on, its own field counted as
// zeros. Source: Linux fs/erofs/super.c, erofs_superblock_csum_verify.
uint32_t ErofsChecksum(std::span<const std::byte> bytes);

// Errors: InvalidArgument if the file is not a whole EROFS image (magic, block size, device table, length);
// DataLoss if its superblock fails its checksum; NotFound, Unavailable if the file can't be read.
absl::StatusOr<ErofsInfo> ReadErofsInfo(const std::string& path);

// Whether an image's devices are these blobs, in this order. The kernel checks nothing about the files that
// it is given as devices: a wrong one mounts, and its bytes are taken for the files' contents. Errors:
// InvalidArgument, which names the first device that differs.
absl::Status CheckErofsDevices(const ErofsInfo& info, std::span<const BlobSpec> blobs);

}  // namespace sluice::ondemand
