#include "ondemand/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "ondemand/keeper/cachefiles/cachefiles_device.h"
#include "ondemand/keeper/fanotify/fanotify_uapi.h"
#include "ondemand/keeper/fanotify/watch.h"
#include "ondemand/keeper/fuse/fuse_mount.h"
#include "ondemand/keeper/fuse/loop_device.h"

extern char** environ;

namespace sluice::ondemand {
namespace {

constexpr int kMajorMin = 6;
constexpr int kMinorMin = 14;
constexpr int kEventWaitMs = 2000;

Requirement KernelVersion() {
  utsname name{};
  uname(&name);
  int major = 0;
  int minor = 0;
  std::sscanf(name.release, "%d.%d", &major, &minor);
  const bool holds = major > kMajorMin || (major == kMajorMin && minor >= kMinorMin);
  return {"kernel 6.14", holds, absl::StrCat("Linux ", name.release),
          holds ? "" : "boot Linux 6.14 or newer: it brought FAN_PRE_ACCESS"};
}

Requirement Privilege() {
  constexpr int kCapSysAdmin = 21;
  std::ifstream status("/proc/self/status");
  unsigned long long effective = 0;
  for (std::string line; std::getline(status, line);) {
    if (std::sscanf(line.c_str(), "CapEff: %llx", &effective) == 1) break;
  }
  const bool holds = (effective >> kCapSysAdmin & 1) != 0;
  return {"CAP_SYS_ADMIN", holds, holds ? "held" : "not held", holds ? "" : "run sluiced as root"};
}

bool IsRegistered(const std::string& filesystem) {
  std::ifstream file("/proc/filesystems");
  for (std::string line; std::getline(file, line);) {
    if (absl::EndsWith(line, "\t" + filesystem)) return true;
  }
  return false;
}

void LoadModule(std::string name) {
  char* argv[] = {const_cast<char*>("modprobe"), const_cast<char*>("-q"), name.data(), nullptr};
  pid_t child = 0;
  if (posix_spawnp(&child, argv[0], nullptr, nullptr, argv, environ) != 0) return;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
}

Requirement Erofs() {
  if (!IsRegistered("erofs")) LoadModule("erofs");
  const bool holds = IsRegistered("erofs");
  return {"EROFS", holds,
          holds ? "in /proc/filesystems" : "not in /proc/filesystems, and modprobe did not help",
          holds ? "" : "install the module erofs (CONFIG_EROFS_FS)"};
}

// A directory of our own that goes away with the object.
class ProbeDirectory {
 public:
  explicit ProbeDirectory(const std::string& parent) : path_(parent + "/.probe-XXXXXX") {
    made_ = mkdtemp(path_.data()) != nullptr;
    error_ = made_ ? 0 : errno;
  }
  ~ProbeDirectory() {
    std::error_code ignored;
    if (made_) std::filesystem::remove_all(path_, ignored);
  }
  ProbeDirectory(const ProbeDirectory&) = delete;
  ProbeDirectory& operator=(const ProbeDirectory&) = delete;

  bool made() const { return made_; }
  int error() const { return error_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool made_;
  int error_;
};

Requirement DirectoryFails(const std::string& data_dir, const ProbeDirectory& directory) {
  return {"data directory", false, absl::StrCat(data_dir, ": ", std::strerror(directory.error())),
          "make it, and writable for sluiced"};
}

// Refuses one event; false if none comes.
bool RefuseOneEvent(int group) {
  pollfd wait{group, POLLIN, 0};
  if (poll(&wait, 1, kEventWaitMs) <= 0) return false;
  alignas(fanotify_event_metadata) char buffer[256];
  const ssize_t length = read(group, buffer, sizeof(buffer));
  const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer);
  if (length <= 0 || event->fd < 0) return false;
  const fanotify_response answer{event->fd, FAN_DENY_ERRNO(EIO)};
  const bool answered = write(group, &answer, sizeof(answer)) == sizeof(answer);
  close(event->fd);
  return answered;
}

Requirement Events(const keeper::Watch& watch) {
  std::atomic<uint64_t> seen{0};
  std::thread door([&] {
    if (RefuseOneEvent(watch.group.get())) ++seen;
  });
  // The reader returns before the door has counted; what it must see is the error.
  keeper::Descriptor canary(openat(watch.tree.get(), keeper::kCanaryName, O_RDONLY | O_CLOEXEC));
  char byte = 0;
  const ssize_t length = pread(canary.get(), &byte, 1, 0);
  const int error = errno;
  door.join();
  const bool holds = length < 0 && error == EIO && seen == 1;
  return {"read events", holds,
          holds ? "a read of a hole was held and refused with EIO"
                : absl::StrCat("a read of a hole gave ", length >= 0 ? "zeros" : std::strerror(error)),
          holds ? "" : "use a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS, 6.14 or newer"};
}

template <typename T>
void Put(std::span<std::byte> image, size_t offset, T value) {
  std::memcpy(image.data() + offset, &value, sizeof(value));
}

// An image with an empty root directory, so that the kernel has nothing to complain of in its log. Source:
// Linux fs/erofs/erofs_fs.h: erofs_super_block, erofs_inode_compact, erofs_dirent; little-endian.
bool WriteEmptyImage(const std::string& path) {
  constexpr size_t kSuper = 1024;
  constexpr uint16_t kRootNid = 36;  // in slots of 32 bytes: right behind the superblock
  constexpr size_t kRoot = kRootNid * 32;
  constexpr size_t kEntries = kRoot + 32;
  constexpr uint16_t kNames = 2 * 12;
  std::array<std::byte, 4096> image{};
  Put<uint32_t>(image, kSuper, 0xE0F5E1E2);
  Put<uint8_t>(image, kSuper + 12, 12);  // block size, as a power of two
  Put<uint16_t>(image, kSuper + 14, kRootNid);
  Put<uint64_t>(image, kSuper + 16, 1);  // inodes
  Put<uint32_t>(image, kSuper + 36, 1);  // blocks
  Put<uint16_t>(image, kRoot, 2 << 1);   // compact, its data behind it
  Put<uint16_t>(image, kRoot + 4, S_IFDIR | 0755);
  Put<uint16_t>(image, kRoot + 6, 2);           // links
  Put<uint32_t>(image, kRoot + 8, kNames + 3);  // size
  for (const auto& [entry, name_offset] : {std::pair<size_t, uint16_t>{0, kNames}, {12, kNames + 1}}) {
    Put<uint64_t>(image, kEntries + entry, kRootNid);
    Put<uint16_t>(image, kEntries + entry + 8, name_offset);
    Put<uint8_t>(image, kEntries + entry + 10, 2);  // directory
  }
  std::memcpy(image.data() + kEntries + kNames, "...", 3);
  const keeper::Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  return file.valid() && pwrite(file.get(), image.data(), image.size(), 0) == ssize_t{image.size()};
}

// A kernel that does not read images from files wants a block device. Returns the errno value that says why
// not, or 0.
int TryFileBackedMount(const std::string& file) {
  if (!WriteEmptyImage(file)) return errno;
  const keeper::Descriptor context(fsopen("erofs", FSOPEN_CLOEXEC));
  if (!context.valid() || fsconfig(context.get(), FSCONFIG_SET_STRING, "source", file.c_str(), 0) != 0)
    return errno;
  if (fsconfig(context.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0) != 0) return errno;
  const int error = fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0 ? 0 : errno;
  return error == ENOTBLK || error == ENODEV || error == EPERM ? error : 0;
}

Requirement FileBackedMounts(const std::string& directory) {
  const int error = TryFileBackedMount(directory + "/image");
  return {"file-backed EROFS mounts", error == 0,
          error == 0 ? "the kernel looks for images in plain files" : std::strerror(error),
          error == 0 ? "" : "use a kernel with CONFIG_EROFS_FS_BACKED_BY_FILE (Linux 6.12)"};
}

// The FUSE door's images are on its files, or on loop devices on these.
Requirement FileOrLoopMounts(const std::string& directory) {
  const std::string file = directory + "/image";
  const std::string name = "EROFS mounts of files or loop devices";
  if (TryFileBackedMount(file) == 0) return {name, true, "the kernel looks for images in plain files", ""};
  if (truncate(file.c_str(), keeper::kCanaryBytes) != 0)
    return {name, false, absl::StrCat(file, ": ", std::strerror(errno)), "make room in the data directory"};
  LoadModule("loop");
  const keeper::Result<keeper::LoopDevice> loop = keeper::AttachLoop(file);
  return {
      name, loop.ok(),
      loop.ok() ? "through loop devices: the kernel does not take plain files" : loop.error().text,
      loop.ok() ? "" : "use a kernel with CONFIG_EROFS_FS_BACKED_BY_FILE (Linux 6.12), or the module loop"};
}

void ProbeDataDirectory(const std::string& data_dir, std::vector<Requirement>* found) {
  const ProbeDirectory directory(data_dir);
  if (!directory.made()) return found->push_back(DirectoryFails(data_dir, directory));
  keeper::Result<keeper::Watch> watch = keeper::OpenWatch(directory.path());
  if (!watch.ok()) {
    found->push_back({"read watch on the data directory", false, watch.error().text,
                      "put the data directory on ext4, xfs or btrfs"});
    return;
  }
  found->push_back({"read watch on the data directory", true, data_dir, ""});
  found->push_back(Events(watch.value()));
  found->push_back(FileBackedMounts(directory.path()));
}

// Kernels without it take the option, and say in the context's log that it is of no use.
Requirement ErofsOverFscache() {
  const keeper::Descriptor context(fsopen("erofs", FSOPEN_CLOEXEC));
  const bool taken = context.valid() && fsconfig(context.get(), FSCONFIG_SET_STRING, "fsid", "probe", 0) == 0;
  char message[256];
  const ssize_t length = taken ? read(context.get(), message, sizeof(message)) : 0;
  const bool holds = taken && length <= 0;
  return {"EROFS over fscache", holds,
          holds ? "the kernel takes an image's fsid" : "the kernel takes no fsid",
          holds ? "" : "use a kernel with CONFIG_EROFS_FS_ONDEMAND (Linux 5.19 to 7.1)"};
}

void ProbeCache(const std::string& data_dir, std::vector<Requirement>* found) {
  found->push_back(ErofsOverFscache());
  const ProbeDirectory directory(data_dir);
  if (!directory.made()) return found->push_back(DirectoryFails(data_dir, directory));
  if (!std::filesystem::exists("/dev/cachefiles")) LoadModule("cachefiles");
  keeper::CachefilesOptions options;
  options.directory = directory.path() + "/cache";
  options.tag = "sluice-probe";
  options.busy_tries = 0;
  const keeper::Result<keeper::CachefilesCache> cache = keeper::BindCache(options, directory.path());
  // Ours is bound already, and so it can be.
  const bool in_use = !cache.ok() && cache.error().code == EBUSY;
  found->push_back({"cachefiles on demand", cache.ok() || in_use,
                    cache.ok() ? "a cache was bound" : cache.error().text,
                    cache.ok() || in_use ? ""
                                         : "use a kernel with CONFIG_CACHEFILES_ONDEMAND, and put the data "
                                           "directory on ext4 or xfs"});
}

void ProbeFuseMount(const std::string& data_dir, std::vector<Requirement>* found) {
  const ProbeDirectory directory(data_dir);
  if (!directory.made()) return found->push_back(DirectoryFails(data_dir, directory));
  LoadModule("fuse");
  const keeper::Result<keeper::FuseMount> mount = keeper::MakeFuseMount(directory.path());
  found->push_back(
      {"FUSE", mount.ok(), mount.ok() ? "a file system was made" : mount.error().text,
       mount.ok() ? "" : "install the module fuse (CONFIG_FUSE_FS), and give sluiced /dev/fuse"});
  found->push_back(FileOrLoopMounts(directory.path()));
}

// The first cgroup of version 1 that can freeze tasks, by /proc/mounts; empty if there is none. What it
// freezes stops where it waits; one of version 2 lets it return from the kernel first.
std::string FreezerOfVersion1() {
  std::ifstream mounts("/proc/mounts");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::string source, at, type, options;
    fields >> source >> at >> type >> options;
    if (type == "cgroup" && ("," + options + ",").find(",freezer,") != std::string::npos) return at;
  }
  return "";
}

// It can't be tried without a container, and works until one is paused: said, and no failure.
Requirement FrozenReaders() {
  const std::string freezer = FreezerOfVersion1();
  const std::string found =
      freezer.empty() ? "no cgroup of version 1 freezes tasks here"
                      : freezer +
                            " freezes tasks where they stand: a container that is paused within a cold read "
                            "keeps others waiting for the same bytes until it goes on; where that happens, "
                            "use cgroups of version 2 or ondemand.backend: fuse";
  return {"paused containers", true, found, ""};
}

}  // namespace

std::vector<Requirement> ProbeFanotify(const std::string& data_dir) {
  std::vector<Requirement> found = {KernelVersion(), Privilege(), Erofs()};
  if (found[0].holds && found[1].holds) ProbeDataDirectory(data_dir, &found);
  found.push_back(FrozenReaders());
  return found;
}

std::vector<Requirement> ProbeCachefiles(const std::string& data_dir) {
  std::vector<Requirement> found = {Privilege(), Erofs()};
  if (found[0].holds && found[1].holds) ProbeCache(data_dir, &found);
  return found;
}

std::vector<Requirement> ProbeFuse(const std::string& data_dir) {
  std::vector<Requirement> found = {Privilege(), Erofs()};
  if (found[0].holds) ProbeFuseMount(data_dir, &found);
  return found;
}

}  // namespace sluice::ondemand
