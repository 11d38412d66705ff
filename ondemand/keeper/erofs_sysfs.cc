#include "ondemand/keeper/erofs_sysfs.h"

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
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

}  // namespace

std::string ErofsSysfsName(int root) {
  SysfsPath path{};
  if (ioctl(root, kGetSysfsPath, &path) != 0) return {};
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
