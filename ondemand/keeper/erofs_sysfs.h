#pragma once

#include <cstdint>
#include <string>

namespace sluice::keeper {

// EROFS file systems in sysfs: each has a directory below /sys/fs/erofs for as long as it lives, mounted
// anywhere or only held by open files. Source: Documentation/ABI/testing/sysfs-fs-erofs, fs/erofs/sysfs.c.

// The directory's name of the file system that the descriptor is on; empty if the kernel does not say: before
// Linux 6.9 (FS_IOC_GETFSSYSFSPATH) of those that are on no block device.
std::string ErofsSysfsName(int root);
// The directory's inode number; 0 with errno set if there is none. A name is given again at once (loop3, or
// numbers that count file systems on files), such a number is not: kernfs counts them up.
uint64_t ErofsSysfsInode(const std::string& name);
// In doubt it lives.
bool ErofsLives(const std::string& name, uint64_t inode);

}  // namespace sluice::keeper
