#include "tests/kernel/device_image.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>

namespace sluice::ondemand::test {
namespace {

constexpr size_t kBlockBytes = 4096;
constexpr size_t kSuperOffset = 1024;
constexpr size_t kSlotBytes = 128;
// In the superblock.
constexpr size_t kChecksumOffset = 4;
constexpr size_t kBlocksOffset = 36;
constexpr size_t kDevicesOffset = 86;
constexpr size_t kTableOffset = 88;
constexpr size_t kSlotBlocksOffset = 64;  // in a slot

struct ChunkIndex {
  uint16_t advise;
  uint16_t device;
  uint32_t block;
};

template <typename T>
void Put(std::vector<char>& bytes, size_t at, T value) {
  std::memcpy(&bytes[at], &value, sizeof(value));
}

// Where the file's chunks are named: in the device's order, beginning with its first block. 0 if nowhere.
size_t FindIndexes(const std::vector<char>& image, size_t blocks) {
  const auto is_index = [&](size_t at, uint32_t block) {
    ChunkIndex index;
    std::memcpy(&index, &image[at], sizeof(index));
    return index.advise == 0 && index.device == 1 && index.block == block;
  };
  for (size_t at = kSuperOffset; at + blocks * sizeof(ChunkIndex) <= image.size(); at += sizeof(ChunkIndex)) {
    size_t found = 0;
    while (found < blocks && is_index(at + found * sizeof(ChunkIndex), static_cast<uint32_t>(found))) ++found;
    if (found == blocks) return at;
  }
  return 0;
}

uint32_t Crc32c(const char* bytes, size_t size) {
  uint32_t crc = ~uint32_t{0};
  for (size_t i = 0; i < size; ++i) {
    crc ^= static_cast<uint8_t>(bytes[i]);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78 : 0);
  }
  return crc;
}

}  // namespace

std::vector<char> ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

DeviceImage SplitDevices(std::vector<char> bootstrap, const std::vector<char>& device, size_t count) {
  const size_t blocks = device.size() / kBlockBytes;
  const size_t indexes = FindIndexes(bootstrap, blocks);
  if (indexes == 0 || bootstrap.size() % kBlockBytes != 0) return {};
  DeviceImage image;
  image.blobs.resize(count);
  // From each device's end to its beginning. Of two blocks that follow each other in the file, and as numbers
  // on two block devices, the kernel reads both from the first (iomap_readpage_iter, Linux 6.1: it compares
  // sectors, not devices). A file of our own images lies on one device.
  for (size_t i = 0; i < count; ++i) image.blobs[i].resize((blocks - i + count - 1) / count * kBlockBytes);
  for (size_t i = 0; i < blocks; ++i) {
    std::vector<char>& blob = image.blobs[i % count];
    const size_t block = blob.size() / kBlockBytes - 1 - i / count;
    const ChunkIndex index{0, static_cast<uint16_t>(1 + i % count), static_cast<uint32_t>(block)};
    Put(bootstrap, indexes + i * sizeof(index), index);
    std::memcpy(&blob[block * kBlockBytes], &device[i * kBlockBytes], kBlockBytes);
  }
  // There is no room for the slots where the one is: they go behind all the rest.
  const size_t table = bootstrap.size();
  bootstrap.resize((table + count * kSlotBytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
  for (size_t i = 0; i < count; ++i) {
    Put(bootstrap, table + i * kSlotBytes + kSlotBlocksOffset,
        static_cast<uint32_t>(image.blobs[i].size() / kBlockBytes));
  }
  Put(bootstrap, kSuperOffset + kBlocksOffset, static_cast<uint32_t>(bootstrap.size() / kBlockBytes));
  Put(bootstrap, kSuperOffset + kDevicesOffset, static_cast<uint16_t>(count));
  Put(bootstrap, kSuperOffset + kTableOffset, static_cast<uint16_t>(table / kSlotBytes));
  Put(bootstrap, kSuperOffset + kChecksumOffset, uint32_t{0});
  Put(bootstrap, kSuperOffset + kChecksumOffset,
      Crc32c(&bootstrap[kSuperOffset], kBlockBytes - kSuperOffset));
  image.bootstrap = std::move(bootstrap);
  return image;
}

}  // namespace sluice::ondemand::test
