#include "ondemand/erofs_instance.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/erofs_sysfs.h"
#include "ondemand/mount_point.h"

namespace sluice::ondemand {

using keeper::Descriptor;

std::string BootId() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

bool Lives(const ErofsInstance& instance) {
  if (!instance.boot.empty() && instance.boot != BootId()) return false;
  return !instance.known() || keeper::ErofsLives(instance.name, instance.inode);
}

absl::StatusOr<ErofsInstance> ErofsInstanceAt(const std::string& path) {
  const absl::StatusOr<Descriptor> directory = OpenForeignDirectory(path);
  if (!directory.ok()) return directory.status();
  // The image's root: no path of anybody else's.
  const Descriptor root(openat(directory->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct statfs status {};
  if (!root.valid() || fstatfs(root.get(), &status) != 0)
    return absl::NotFoundError(absl::StrCat("open ", path, ": ", std::strerror(errno)));
  if (status.f_type != EROFS_SUPER_MAGIC_V1)
    return absl::NotFoundError(absl::StrCat("no EROFS file system is mounted at ", path));
  ErofsInstance instance{keeper::ErofsSysfsName(root.get()), 0, BootId()};
  if (!instance.name.empty()) instance.inode = keeper::ErofsSysfsInode(instance.name);
  if (instance.known()) return instance;
  return absl::UnavailableError(absl::StrCat("the kernel does not say which file system is at ", path));
}

absl::Status DropCachedPages() {
  const Descriptor file(open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC));
  if (file.valid() && write(file.get(), "1", 1) == 1) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("write /proc/sys/vm/drop_caches: ", std::strerror(errno)));
}

}  // namespace sluice::ondemand
