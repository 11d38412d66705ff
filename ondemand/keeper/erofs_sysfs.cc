#include "ondemand/keeper/erofs_sysfs.h"

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <string_view>

namespace sluice::keeper {
namespace {

// What Debian 12's <linux/fs.h> lacks.
struct SysfsPath {
  uint8_t length;
  char name[128];
};
constexpr unsigned long kGetSysfsPath = _IOR(0x15, 1, SysfsPath);  // FS_IOC_GETFSSYSFSPATH

constexpr std::string_view kErofs = "erofs/";

// Where the block device's file system is found: its number says which it is.
std::string BlockDeviceName(int root) {
  struct stat status {};
  if (fstat(root, &status) != 0) return {};
  const std::string link = "/sys/dev/block/" + std::to_string(gnu_dev_major(status.st_dev)) + ":" +
                           std::to_string(gnu_dev_minor(status.st_dev));
  char target[PATH_MAX];
  const ssize_t length = readlink(link.c_str(), target, sizeof(target));
  const std::string_view path(target, length > 0 ? static_cast<size_t>(length) : 0);
  return std::string(path.substr(path.rfind('/') + 1));
}

}  // namespace

std::string ErofsSysfsName(int root) {
  SysfsPath path{};
  if (ioctl(root, kGetSysfsPath, &path) != 0) return BlockDeviceName(root);
  const std::string_view name(path.name, std::min<size_t>(path.length, sizeof(path.name)));
  return std::string(name.substr(name.starts_with(kErofs) ? kErofs.size() : 0));
}

uint64_t ErofsSysfsInode(const std::string& name) {
  struct stat status {};
  return stat(("/sys/fs/erofs/" + name).c_str(), &status) == 0 ? status.st_ino : 0;
}

bool ErofsLives(const std::string& name, uint64_t inode) {
  const uint64_t now = ErofsSysfsInode(name);
  if (now != 0) return now == inode;
  return errno != ENOENT || access("/sys/fs", F_OK) != 0;
}

}  // namespace sluice::keeper
