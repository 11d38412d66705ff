#include "ondemand/keeper/fuse/loop_device.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

namespace sluice::keeper {
namespace {

constexpr int kAttempts = 64;
constexpr int kLoopMajor = 7;
constexpr uint32_t kFlags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;

// The node may be missing where /dev is not the kernel's own, as in a container.
Result<Descriptor> OpenLoop(const std::string& path, int number) {
  Descriptor device(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (device.valid() || errno != ENOENT) {
    return device.valid() ? Result<Descriptor>(std::move(device)) : ErrnoError("open " + path);
  }
  if (mknod(path.c_str(), S_IFBLK | 0600, makedev(kLoopMajor, static_cast<unsigned>(number))) != 0)
    return ErrnoError("make " + path);
  device.reset(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return device.valid() ? Result<Descriptor>(std::move(device)) : ErrnoError("open " + path);
}

std::string NameOf(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// Whether the device is on all of this file, as AttachLoop makes it. While it is open here it stays so.
bool IsOn(int device, const struct stat& file) {
  loop_info64 info{};
  return ioctl(device, LOOP_GET_STATUS64, &info) == 0 && info.lo_device == file.st_dev &&
         info.lo_inode == file.st_ino && info.lo_offset == 0 && info.lo_sizelimit == 0 &&
         (info.lo_flags & kFlags) == kFlags;
}

}  // namespace

Result<LoopDevice> AttachLoop(const std::string& path) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return ErrnoError("open a file of the image");
  Descriptor control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid()) return ErrnoError("open /dev/loop-control (needs CONFIG_BLK_DEV_LOOP)");
  // Somebody else may take the free one before us.
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return ErrnoError("find a free loop device");
    const std::string name = "/dev/loop" + std::to_string(number);
    Result<Descriptor> device = OpenLoop(name, number);
    if (!device.ok()) return device.error();
    loop_config config{};
    config.fd = static_cast<uint32_t>(file.get());
    config.info.lo_flags = kFlags;
    if (ioctl(device.value().get(), LOOP_CONFIGURE, &config) == 0)
      return LoopDevice{name, std::move(device.value())};
    if (errno != EBUSY) return ErrnoError("attach a file of the image to " + name);
  }
  return Error{EBUSY, "no loop device stays free for long enough"};
}

LoopDevices::LoopDevices() {
  std::error_code error;
  std::filesystem::directory_iterator entry("/sys/block", error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    std::ifstream file(entry->path() / "loop/backing_file");
    std::string backing;
    if (std::getline(file, backing)) by_name_.emplace(NameOf(backing), "/dev/" + NameOf(entry->path()));
  }
}

Result<LoopDevice> LoopDevices::Share(const std::string& path) {
  struct stat file {};
  if (stat(path.c_str(), &file) != 0) return ErrnoError("inspect a file of the image");
  const std::string name = NameOf(path);
  const auto [first, last] = by_name_.equal_range(name);
  for (auto known = first; known != last; ++known) {
    Descriptor device(open(known->second.c_str(), O_RDONLY | O_CLOEXEC));
    if (device.valid() && IsOn(device.get(), file)) return LoopDevice{known->second, std::move(device)};
  }
  Result<LoopDevice> made = AttachLoop(path);
  if (made.ok()) by_name_.emplace(name, made.value().path);
  return made;
}

}  // namespace sluice::keeper
