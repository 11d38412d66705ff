#include "ondemand/keeper/mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "ondemand/keeper/log.h"
#include "ondemand/keeper/loop_device.h"
#include "ondemand/keeper/watch.h"

namespace sluice::keeper {
namespace {

constexpr int kKernelMessagesMax = 16;

std::string NameOf(const BlobRecord& record) {
  return std::string(record.name, kBlobNameLength);
}

std::string PathOf(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

// What the kernel says of a failed mount (fsopen(2), "message retrieval"); empty if nothing.
std::string KernelMessages(int context) {
  std::string all;
  char line[512];
  for (int i = 0; i < kKernelMessagesMax; ++i) {
    const ssize_t length = read(context, line, sizeof(line));
    if (length <= 0) break;
    all.append(all.empty() ? " (" : "; ").append(line, static_cast<size_t>(length));
    while (!all.empty() && all.back() == '\n') all.pop_back();
  }
  return all.empty() ? all : all + ")";
}

struct MountId {
  uint64_t id = 0;
  uint64_t filesystem = 0;
};

Result<MountId> MountIdOf(int directory, const char* path) {
  struct statx found {};
  if (statx(directory, path, AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_MNT_ID, &found) != 0) {
    return ErrnoError(std::string("inspect the mount ") + path);
  }
  const uint64_t filesystem = gnu_dev_makedev(found.stx_dev_major, found.stx_dev_minor);
  return MountId{found.stx_mnt_id, filesystem};
}

// Whether the file system lives, mounted anywhere or only held by open files (ustat(2)). Where the call does
// not exist, what was unmounted lazily can't be told from what is gone, and counts as alive.
bool FilesystemLives(uint64_t filesystem) {
#ifdef SYS_ustat
  char information[64];
  const auto device = static_cast<unsigned>((filesystem & 0xff) | (gnu_dev_major(filesystem) << 8) |
                                            ((gnu_dev_minor(filesystem) & ~0xffu) << 12));
  return syscall(SYS_ustat, device, information) == 0;
#else
  return filesystem != 0;
#endif
}

bool VisibleAtItsPlace(const MountRecord& record) {
  Result<MountId> found = MountIdOf(AT_FDCWD, record.mount_point);
  return found.ok() && found.value().id == record.mount_id;
}

bool SameImage(const MountRecord& record, const MountCall& call) {
  return record.device_count == call.device_count && std::strcmp(record.label, call.label) == 0 &&
         std::equal(call.devices, call.devices + call.device_count, record.devices);
}

int SetString(int context, const char* key, const std::string& value) {
  return fsconfig(context, FSCONFIG_SET_STRING, key, value.c_str(), 0);
}

}  // namespace

Result<std::string> Mounts::DevicePath(uint32_t blob_entry) {
  if (blob_entry >= kBlobsMax || journal_.layout().blobs[blob_entry].in_use.load() == 0) {
    return Error{ENODEV, "a device of the image is not guarded"};
  }
  const BlobRecord& record = journal_.layout().blobs[blob_entry];
  const std::string name = NameOf(record);
  Result<Descriptor> same = OpenIfSame(door_.kernel().store, name, {record.device, record.inode});
  if (!same.ok()) return same.error();
  return PathOf(door_.kernel().tree) + "/" + name;
}

Result<Descriptor> Mounts::MakeFilesystem(const MountCall& call, int bootstrap) {
  Result<Descriptor> mount = MountFiles(call, bootstrap, false);
  // fanotify's events are not raised for a loop device: it reads ahead of any reader, on its own thread.
  const bool loops =
      !mount.ok() && mount.error().code == ENOTBLK && journal_.layout().door == DoorKind::kFuse;
  return loops ? MountFiles(call, bootstrap, true) : std::move(mount);
}

Result<Descriptor> Mounts::MountFiles(const MountCall& call, int bootstrap, bool loops) {
  Descriptor context(fsopen("erofs", FSOPEN_CLOEXEC));
  if (!context.valid()) return ErrnoError("open the EROFS file system (needs CONFIG_EROFS_FS)");
  // The mount holds its loop devices from when it is made; until then we do.
  std::vector<LoopDevice> held;
  std::vector<std::string> paths{PathOf(bootstrap)};
  for (uint32_t i = 0; i < call.device_count; ++i) {
    Result<std::string> path = DevicePath(call.devices[i]);
    if (!path.ok()) return path.error();
    paths.push_back(std::move(path.value()));
  }
  for (std::string& path : paths) {
    if (loops) {
      Result<LoopDevice> loop = AttachLoop(path);
      if (!loop.ok()) return loop.error();
      path = loop.value().path;
      held.push_back(std::move(loop.value()));
    }
    const char* key = &path == &paths.front() ? "source" : "device";
    if (SetString(context.get(), key, path) != 0)
      return ErrnoError(std::string("give the kernel the ") + key);
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    Error error = ErrnoError("the kernel does not take the bootstrap as an EROFS image");
    error.text += KernelMessages(context.get());
    return error;
  }
  const unsigned attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID;
  Descriptor mount(fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
  if (!mount.valid()) return ErrnoError("mount the image");
  return mount;
}

Outcome Mounts::Mount(const MountCall& call, int bootstrap) {
  ForgetDead();
  std::span<MountRecord> records(journal_.layout().mounts);
  for (const MountRecord& record : records) {
    if (record.in_use == 0 || std::strcmp(record.mount_point, call.mount_point) != 0 ||
        !VisibleAtItsPlace(record)) {
      continue;
    }
    // A call that is made again because a keeper died before its answer.
    if (SameImage(record, call)) return {};
    return Error{EBUSY, std::string("another image is mounted at ") + call.mount_point};
  }
  const auto free = std::find_if(records.begin(), records.end(), [](const auto& r) { return r.in_use == 0; });
  if (free == records.end()) return Error{ENOSPC, "too many mounts"};

  Result<Descriptor> mount = MakeFilesystem(call, bootstrap);
  if (!mount.ok()) return mount.error();
  Result<MountId> id = MountIdOf(mount.value().get(), "");
  if (!id.ok()) return id.error();

  // Written down before it can be reached: a successor must not take it for idle and leave.
  *free = {};
  free->device_count = call.device_count;
  std::copy_n(call.devices, call.device_count, free->devices);
  std::memcpy(free->mount_point, call.mount_point, sizeof(call.mount_point));
  std::memcpy(free->label, call.label, sizeof(call.label));
  free->mount_id = id.value().id;
  free->filesystem = id.value().filesystem;
  std::atomic_thread_fence(std::memory_order_release);
  free->in_use = 1;
  if (move_mount(mount.value().get(), "", AT_FDCWD, call.mount_point, MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    const Error error = ErrnoError(std::string("put the mount at ") + call.mount_point);
    free->in_use = 0;
    return error;
  }
  Log("mounted %s (%u blobs)", call.mount_point, call.device_count);
  return {};
}

Outcome Mounts::Unmount(const std::string& mount_point) {
  ForgetDead();
  for (MountRecord& record : journal_.layout().mounts) {
    if (record.in_use == 0 || mount_point != record.mount_point || !VisibleAtItsPlace(record)) continue;
    if (umount2(record.mount_point, UMOUNT_NOFOLLOW) != 0) return ErrnoError("unmount " + mount_point);
    Log("unmounted %s", record.mount_point);
    ForgetDead();
    return {};
  }
  return Error{ENOENT, mount_point + " is not a mount of this keeper"};
}

const MountRecord* Mounts::NextVisible(uint32_t from, uint32_t* entry) {
  for (uint32_t i = from; i < kMountsMax; ++i) {
    const MountRecord& record = journal_.layout().mounts[i];
    if (record.in_use == 0 || !VisibleAtItsPlace(record)) continue;
    *entry = i;
    return &record;
  }
  return nullptr;
}

bool Mounts::Uses(uint32_t blob_entry) {
  ForgetDead();
  for (const MountRecord& record : journal_.layout().mounts) {
    const auto* end = record.devices + std::min(record.device_count, kDevicesMax);
    if (record.in_use != 0 && std::find(record.devices, end, blob_entry) != end) return true;
  }
  return false;
}

bool Mounts::Any() {
  ForgetDead();
  return std::any_of(std::begin(journal_.layout().mounts), std::end(journal_.layout().mounts),
                     [](const MountRecord& record) { return record.in_use != 0; });
}

void Mounts::ForgetDead() {
  for (MountRecord& record : journal_.layout().mounts) {
    if (record.in_use == 0 || VisibleAtItsPlace(record) || FilesystemLives(record.filesystem)) continue;
    record.in_use = 0;
  }
}

}  // namespace sluice::keeper
