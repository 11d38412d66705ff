#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace sluice::ondemand::test {

// An EROFS image whose one big file lies on many devices, which mkfs.erofs can't make.
struct DeviceImage {
  std::vector<char> bootstrap;
  std::vector<std::vector<char>> blobs;  // whole blocks; none is empty
};

// Makes it of an image that mkfs.erofs has made with --chunksize=4096, -Eforce-chunk-indexes and --blobdev,
// and of that device's bytes: the file's blocks go to the devices in turn. The devices have no names. Empty
// if the image is not of that kind. REQUIRES: 0 < count, and the file has as many blocks Source: Linux
// fs/erofs/erofs_fs.h, struct erofs_inode_chunk_index and erofs_deviceslot.
DeviceImage SplitDevices(std::vector<char> bootstrap, const std::vector<char>& device, size_t count);

std::vector<char> ReadBytes(const std::string& path);

}  // namespace sluice::ondemand::test
