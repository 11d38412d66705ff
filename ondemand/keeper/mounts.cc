#include "ondemand/keeper/mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "ondemand/keeper/erofs_sysfs.h"
#include "ondemand/keeper/fanotify/watch.h"
#include "ondemand/keeper/fuse/loop_device.h"
#include "ondemand/keeper/log.h"
#include "ondemand/keeper/mounting_process.h"

namespace sluice::keeper {
namespace {

constexpr int kKernelMessagesMax = 16;
constexpr uint32_t kFsidTries = 4;
// So many dead keepers may have left file systems in a domain that are used still.
constexpr uint32_t kDomainTries = 8;
constexpr int kDeadFiles = ESTALE;
// How long the kernel may take to open one more file of an image, or to name one that it has closed.
constexpr int64_t kFileNs = 2'000'000'000;
constexpr useconds_t kFilePauseUs = 10'000;
// How long the way to a mount point may take.
constexpr int64_t kForeignPathMs = 3000;

std::string NameOf(const BlobRecord& record) {
  return std::string(record.name, kBlobNameLength);
}

std::string PathOf(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

// What the kernel says of a failed mount (fsopen(2), "message retrieval"), each line without the letter that
// says how grave it is; empty if nothing.
std::string KernelMessages(int context) {
  std::string all;
  char line[512];
  for (int i = 0; i < kKernelMessagesMax; ++i) {
    const ssize_t length = read(context, line, sizeof(line));
    if (length <= 0) break;
    std::string_view text(line, static_cast<size_t>(length));
    if (text.size() > 2 && text[1] == ' ') text.remove_prefix(2);
    while (text.ends_with('\n')) text.remove_suffix(1);
    all.append(all.empty() ? " (" : "; ").append(text);
  }
  return all.empty() ? all : all + ")";
}

Error MountError(int context, const std::string& what) {
  Error error = ErrnoError(what);
  error.text += KernelMessages(context);
  return error;
}

struct MountIdentity {
  uint64_t id = 0;
  uint64_t device = 0;
  friend bool operator==(const MountIdentity&, const MountIdentity&) = default;
};

Result<MountIdentity> IdentityOf(int directory, const char* path) {
  struct statx found {};
  const int flags = AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
  if (statx(directory, path, flags, STATX_MNT_ID, &found) != 0)
    return ErrnoError(std::string("inspect the mount ") + path);
  return MountIdentity{found.stx_mnt_id, makedev(found.stx_dev_major, found.stx_dev_minor)};
}

// Of a file system in the kernel's cache.
std::string SysfsNameOf(const std::string& domain, const std::string& fsid) {
  return domain.empty() ? fsid : domain + "," + fsid;
}

std::string SysfsNameOf(const MountRecord& record, int root) {
  if (std::string name = ErofsSysfsName(root); !name.empty()) return name;
  return SysfsNameOf(record.domain, record.fsid);
}

// The holes of its blobs must stay guarded.
bool FilesystemLives(const MountRecord& record) {
  return ErofsLives(record.sysfs_name, record.sysfs_inode);
}

Outcome Identify(int mount, MountRecord& record) {
  Result<MountIdentity> identity = IdentityOf(mount, "");
  if (!identity.ok()) return identity.error();
  record.mount_id = identity.value().id;
  record.device = identity.value().device;
  const Descriptor root(openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) return ErrnoError("open the image's root directory");
  if (CopyText(SysfsNameOf(record, root.get()), record.sysfs_name) && record.sysfs_name[0] != 0)
    record.sysfs_inode = ErofsSysfsInode(record.sysfs_name);
  if (record.sysfs_inode != 0) return {};
  return Error{
      ENOTSUP,
      "the image is not listed in /sys/fs/erofs, and so its end would not be seen: mount sysfs at /sys"};
}

// Where a domain is spoilt, its name with a number is taken instead.
std::string DomainVariant(const MountCall& call, uint32_t number) {
  return number < 2 ? call.domain : std::string(call.domain) + "." + std::to_string(number);
}

bool IsVariantOf(std::string_view domain, const std::string& of) {
  return domain == of || (!of.empty() && domain.starts_with(of + "."));
}

bool SameImage(const MountRecord& record, const MountCall& call) {
  return record.device_count == call.device_count && std::strcmp(record.label, call.label) == 0 &&
         record.bootstrap == call.bootstrap && IsVariantOf(record.domain, call.domain) &&
         std::equal(call.devices, call.devices + call.device_count, record.devices);
}

int SetString(int context, const char* key, const std::string& value) {
  return fsconfig(context, FSCONFIG_SET_STRING, key, value.c_str(), 0);
}

// What can't be read was not mounted.
Outcome ReadRoot(int mount) {
  const Descriptor root(openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  alignas(8) char entries[4096];
  if (root.valid() && syscall(SYS_getdents64, root.get(), entries, sizeof(entries)) > 0) return {};
  return ErrnoError("read the image's root directory");
}

unsigned AttributesOf(uint32_t flags) {
  unsigned attributes = MOUNT_ATTR_RDONLY;
  if ((flags & kMountNoSuid) != 0) attributes |= MOUNT_ATTR_NOSUID;
  if ((flags & kMountNoDev) != 0) attributes |= MOUNT_ATTR_NODEV;
  if ((flags & kMountNoExec) != 0) attributes |= MOUNT_ATTR_NOEXEC;
  return attributes;
}

Result<Descriptor> Create(int context, uint32_t flags) {
  // Or else the kernel opens block devices for writing.
  if (fsconfig(context, FSCONFIG_SET_FLAG, "ro", nullptr, 0) != 0)
    return MountError(context, "mount read-only");
  if (fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return MountError(context, "the kernel does not take the bootstrap as an EROFS image");
  Descriptor mount(fsmount(context, FSMOUNT_CLOEXEC, AttributesOf(flags)));
  if (!mount.valid()) return MountError(context, "mount the image");
  if (Outcome read = ReadRoot(mount.get()); !read.ok()) return read.error();
  return mount;
}

// From files, the first of which is the bootstrap, or from block devices.
Result<Descriptor> MountFiles(std::span<const std::string> files, uint32_t flags) {
  Descriptor context(fsopen("erofs", FSOPEN_CLOEXEC));
  if (!context.valid()) return ErrnoError("open the EROFS file system (needs CONFIG_EROFS_FS)");
  const char* key = "source";
  for (const std::string& path : files) {
    if (SetString(context.get(), key, path) != 0)
      return MountError(context.get(), std::string("give the kernel the ") + key);
    key = "device";
  }
  return Create(context.get(), flags);
}

// From loop devices on the files, the first of which is the bootstrap.
Result<Descriptor> MountLoops(std::span<const std::string> files, uint32_t flags) {
  // The mount holds its devices from when it is made; until then we do.
  std::vector<LoopDevice> held;
  std::vector<std::string> paths;
  LoopDevices devices;
  for (const std::string& path : files) {
    Result<LoopDevice> loop = held.empty() ? AttachLoop(path) : devices.Share(path);
    if (!loop.ok()) return loop.error();
    paths.push_back(loop.value().path);
    held.push_back(std::move(loop.value()));
  }
  return MountFiles(paths, flags);
}

// Where the path leads now may be somewhere else than where the list says that the mount is.
Outcome UnmountThere(const MountRecord& record, Mounts::IfBusy if_busy) {
  const Result<MountIdentity> found = IdentityOf(AT_FDCWD, record.mount_point);
  if (!found.ok()) return found.error();
  if (found.value() != MountIdentity{record.mount_id, record.device})
    return Error{ENOENT, std::string(record.mount_point) + " is not where the mount is any more"};
  if (umount2(record.mount_point, UMOUNT_NOFOLLOW) == 0) return {};
  const bool detach = errno == EBUSY && if_busy == Mounts::IfBusy::kDetach;
  if (detach && umount2(record.mount_point, UMOUNT_NOFOLLOW | MNT_DETACH) == 0) return {};
  return ErrnoError(std::string("unmount ") + record.mount_point);
}

}  // namespace

Result<std::string> Mounts::DevicePath(uint32_t blob_entry) {
  if (blob_entry >= kBlobsMax || journal_.layout().blobs[blob_entry].in_use.load() == 0) {
    return Error{ENODEV, "its blob is not guarded"};
  }
  const BlobRecord& record = journal_.layout().blobs[blob_entry];
  const std::string name = NameOf(record);
  Result<Descriptor> same = OpenIfSame(door_.kernel().store, name, {record.device, record.inode});
  if (!same.ok()) return same.error();
  return PathOf(door_.kernel().tree) + "/" + name;
}

Result<Descriptor> Mounts::MakeFilesystem(const MountCall& call, int bootstrap,
                                          std::span<const int> abort_on) {
  std::vector<std::string> paths{PathOf(bootstrap)};
  for (uint32_t i = 0; i < call.device_count; ++i) {
    Result<std::string> path = DevicePath(call.devices[i]);
    if (!path.ok())
      return Error{path.error().code, "device " + std::to_string(i + 1) + ": " + path.error().text};
    paths.push_back(std::move(path.value()));
  }
  if (journal_.layout().door != DoorKind::kFuse) return MountFiles(paths, call.flags);
  // fanotify's events are not raised for a loop device: it reads ahead of any reader, on its own thread.
  const auto make = [&]() -> Result<Descriptor> {
    Result<Descriptor> mount = MountFiles(paths, call.flags);
    return mount.ok() || mount.error().code != ENOTBLK ? std::move(mount) : MountLoops(paths, call.flags);
  };
  const int keep[] = {door_.kernel().tree, bootstrap};
  return MountingProcess().Run(make, {keep, abort_on, TimeoutMs()});
}

int64_t Mounts::TimeoutMs() const {
  return 2 * journal_.layout().read_deadline_ns.load() / 1'000'000;
}

// The volume is the domain's, or the fsid's own; a blob's cookie has the name that we give its device.
// Source: fs/erofs/fscache.c and super.c, Linux 6.1.
Result<Descriptor> Mounts::MountCache(const MountRecord& record, uint32_t flags,
                                      std::span<const int> abort_on) {
  const auto make = [this, &record, flags]() -> Result<Descriptor> {
    Descriptor context(fsopen("erofs", FSOPEN_CLOEXEC));
    if (!context.valid()) return ErrnoError("open the EROFS file system (needs CONFIG_EROFS_FS)");
    if (SetString(context.get(), "fsid", record.fsid) != 0 ||
        (record.domain[0] != 0 && SetString(context.get(), "domain_id", record.domain) != 0)) {
      return MountError(context.get(),
                        "name the image in the kernel's cache (needs CONFIG_EROFS_FS_ONDEMAND)");
    }
    for (uint32_t i = 0; i < record.device_count; ++i) {
      if (SetString(context.get(), "device", NameOf(journal_.layout().blobs[record.devices[i]])) != 0)
        return MountError(context.get(), "give the kernel a device");
    }
    return Create(context.get(), flags);
  };
  Result<Descriptor> mount = MountingProcess().Run(make, {{}, abort_on, TimeoutMs()});
  if (!mount.ok() || AwaitFiles([&] { return door_.FilesNotOpen(record); })) return mount;
  return Error{kDeadFiles, "the kernel has files of the image open that nobody can read: a dead keeper's"};
}

// The kernel comes for all files of an image soon after it is mounted, for some at a time.
bool Mounts::AwaitFiles(const std::function<size_t()>& missing) const {
  const int64_t end_ns = NowNs() + std::max(TimeoutMs() * 1'000'000, kFileNs);
  size_t fewest = SIZE_MAX;
  for (int64_t give_up_ns = 0;;) {
    const size_t now = missing();
    if (now == 0) return true;
    if (now < fewest) give_up_ns = std::min(NowNs() + kFileNs, end_ns);
    fewest = std::min(fewest, now);
    if (NowNs() >= give_up_ns) return false;
    usleep(kFilePauseUs);
  }
}

// A copy that the kernel has just begun has no name before it is closed, and what it is given could not be
// taken away from readers again: so the image is mounted, and closed, once before it is mounted to stay. Its
// readers have no part in that.
Result<Descriptor> Mounts::MountNamedCopies(const MountRecord& record, uint32_t flags,
                                            std::span<const int> abort_on) {
  Result<Descriptor> mount = MountCache(record, flags, abort_on);
  if (!mount.ok() || door_.CopiesWithoutName(record) == 0) return mount;
  mount.value().reset();
  if (!AwaitFiles([&] { return door_.CopiesWithoutName(record); }))
    Log("the kernel names not all of its copies of the image's files: they can't be discarded");
  return MountCache(record, flags, abort_on);
}

// A bootstrap can be mounted once by a name in its domain: the next ones get a number; so it is with what a
// dead keeper has left mounted. `tried` are names that the kernel has in use for something else.
Result<std::string> Mounts::FreeFsid(const MountCall& call, const std::string& domain, uint32_t tried) const {
  if (call.bootstrap >= kBlobsMax || journal_.layout().blobs[call.bootstrap].in_use.load() == 0)
    return Error{ENODEV, "the image's bootstrap is not guarded"};
  const std::string name = NameOf(journal_.layout().blobs[call.bootstrap]);
  const auto taken = [&](const std::string& fsid) {
    return ErofsSysfsInode(SysfsNameOf(domain, fsid)) != 0 ||
           std::any_of(std::begin(journal_.layout().mounts), std::end(journal_.layout().mounts),
                       [&](const MountRecord& record) { return record.in_use != 0 && fsid == record.fsid; });
  };
  std::string fsid = name;
  for (uint32_t i = 2, skipped = 0; taken(fsid) || skipped++ < tried; ++i)
    fsid = name + "." + std::to_string(i);
  return fsid;
}

Outcome Mounts::Mount(const MountCall& call, const Files& files, std::span<const int> abort_on) {
  ForgetDead();
  std::span<MountRecord> records(journal_.layout().mounts);
  for (const MountRecord& record : records) {
    if (record.in_use == 0 || std::strcmp(record.mount_point, call.mount_point) != 0 || !IsVisible(record)) {
      continue;
    }
    // A call that is made again because a keeper died before its answer.
    if (SameImage(record, call)) return {};
    return Error{EBUSY, std::string("another image is mounted at ") + call.mount_point};
  }
  const auto free = std::find_if(records.begin(), records.end(), [](const auto& r) { return r.in_use == 0; });
  if (free == records.end()) return Error{ENOSPC, "too many mounts"};

  const Outcome mounted = MountFresh(call, files, abort_on, *free);
  if (!mounted.ok()) return mounted;
  Log("mounted %s (%u blobs)", call.mount_point, call.device_count);
  return {};
}

// Of the domain's files that the kernel has open it does not say whether they are dead. An image that can't
// be read in it is mounted in another one, with copies of its own.
Outcome Mounts::MountFresh(const MountCall& call, const Files& files, std::span<const int> abort_on,
                           MountRecord& place) {
  Outcome mounted;
  for (uint32_t number = 1; number <= kDomainTries; ++number) {
    const std::string domain = DomainVariant(call, number);
    for (uint32_t tried = 0; tried < kFsidTries; ++tried) {
      Result<MountRecord> filled = Describe(call, domain, tried);
      if (!filled.ok()) return filled.error();
      mounted = MountAt(call, files, abort_on, filled.value(), place);
      // The name may be in use still: by a mount that is ending, or that a dead keeper had begun.
      const bool name_taken = !mounted.ok() && journal_.layout().door == DoorKind::kCachefiles &&
                              (mounted.error().code == EEXIST || mounted.error().code == EBUSY);
      if (!name_taken) break;
    }
    const bool spoilt = !mounted.ok() && mounted.error().code == kDeadFiles &&
                        journal_.layout().door == DoorKind::kCachefiles && call.domain[0] != 0;
    if (!spoilt) return mounted;
    Log("the domain %s has files of a dead keeper's: trying another", domain.c_str());
  }
  return mounted;
}

Result<MountRecord> Mounts::Describe(const MountCall& call, const std::string& domain, uint32_t tried) const {
  MountRecord record;
  record.device_count = call.device_count;
  record.bootstrap = call.bootstrap;
  std::copy_n(call.devices, call.device_count, record.devices);
  std::memcpy(record.mount_point, call.mount_point, sizeof(call.mount_point));
  std::memcpy(record.label, call.label, sizeof(call.label));
  if (journal_.layout().door != DoorKind::kCachefiles) return record;
  if (!CopyText(domain, record.domain)) return Error{ENAMETOOLONG, "the domain's name is too long"};
  Result<std::string> fsid = FreeFsid(call, domain, tried);
  if (!fsid.ok()) return fsid.error();
  CopyText(fsid.value(), record.fsid);
  return record;
}

Outcome Mounts::MountAt(const MountCall& call, const Files& files, std::span<const int> abort_on,
                        MountRecord& record, MountRecord& place) {
  door_.AddImage(record);
  Outcome mounted = MakeAndAttach(call, files, abort_on, record, place);
  if (!mounted.ok()) door_.RemoveImage(record);
  return mounted;
}

Outcome Mounts::MakeAndAttach(const MountCall& call, const Files& files, std::span<const int> abort_on,
                              MountRecord& record, MountRecord& place) {
  Result<Descriptor> mount = journal_.layout().door == DoorKind::kCachefiles
                                 ? MountNamedCopies(record, call.flags, abort_on)
                                 : MakeFilesystem(call, files.bootstrap, abort_on);
  if (!mount.ok()) return mount.error();
  if (Outcome identified = Identify(mount.value().get(), record); !identified.ok()) return identified;

  // Written down before it can be reached: a successor must not take it for idle and leave.
  place = record;
  std::atomic_thread_fence(std::memory_order_release);
  place.in_use = 1;
  if (move_mount(mount.value().get(), "", files.directory, "",
                 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) == 0) {
    return {};
  }
  Error error = ErrnoError(std::string("put the mount at ") + call.mount_point);
  const Result<MountIdentity> there = IdentityOf(files.directory, "");
  if (error.code == EINVAL && there.ok() && list_.Find(there.value().id, there.value().device) == nullptr) {
    error.code = EPERM;
    error.text = std::string(call.mount_point) + " is in another mount namespace than the keeper (pid " +
                 std::to_string(getpid()) +
                 "), which mounts in its own: start sluiced there, or unmount all " +
                 "images, so that the next sluiced starts a keeper where it is itself";
  }
  place.in_use = 0;
  return error;
}

Outcome Mounts::Unmount(const std::string& mount_point, IfBusy if_busy) {
  ForgetDead();
  for (MountRecord& record : journal_.layout().mounts) {
    if (record.in_use == 0 || mount_point != record.mount_point || !IsVisible(record)) continue;
    const Outcome unmounted =
        MountingProcess().RunOutcome([&] { return UnmountThere(record, if_busy); }, {{}, {}, kForeignPathMs});
    if (!unmounted.ok()) return unmounted;
    Log("unmounted %s", record.mount_point);
    ForgetDead();
    return {};
  }
  return Error{ENOENT, mount_point + " is not a mount of this keeper"};
}

Outcome Mounts::AdoptOrphan(const OrphanCall& call) {
  ForgetDead();
  MountRecord orphan;
  orphan.device_count = call.device_count;
  std::copy_n(call.devices, call.device_count, orphan.devices);
  std::memcpy(orphan.sysfs_name, call.sysfs_name, sizeof(orphan.sysfs_name));
  orphan.sysfs_inode = call.sysfs_inode;
  if (!FilesystemLives(orphan)) return Error{ENOENT, "the file system is gone"};
  MountRecord* free = nullptr;
  for (MountRecord& record : journal_.layout().mounts) {
    const bool same =
        record.sysfs_inode == orphan.sysfs_inode && std::strcmp(record.sysfs_name, orphan.sysfs_name) == 0;
    if (record.in_use != 0 && same) return {};
    if (record.in_use == 0 && free == nullptr) free = &record;
  }
  if (free == nullptr) return Error{ENOSPC, "too many mounts"};
  *free = orphan;
  std::atomic_thread_fence(std::memory_order_release);
  free->in_use = 1;
  Log("adopted the file system %s of an earlier keeper (%u blobs)", orphan.sysfs_name, orphan.device_count);
  return {};
}

const MountRecord* Mounts::NextVisible(uint32_t from, uint32_t* entry) {
  Follow();
  for (uint32_t i = from; i < kMountsMax; ++i) {
    const MountRecord& record = journal_.layout().mounts[i];
    if (record.in_use == 0 || !IsVisible(record)) continue;
    *entry = i;
    return &record;
  }
  return nullptr;
}

bool Mounts::Uses(uint32_t blob_entry) {
  ForgetDead();
  for (const MountRecord& record : journal_.layout().mounts) {
    const auto* end = record.devices + std::min(record.device_count, kDevicesMax);
    if (record.in_use == 0) continue;
    if (record.bootstrap == blob_entry || std::find(record.devices, end, blob_entry) != end) return true;
  }
  return false;
}

bool Mounts::Any() {
  ForgetDead();
  return std::any_of(std::begin(journal_.layout().mounts), std::end(journal_.layout().mounts),
                     [](const MountRecord& record) { return record.in_use != 0; });
}

bool Mounts::AnyVisible() {
  uint32_t entry = 0;
  return NextVisible(0, &entry) != nullptr;
}

void Mounts::ForgetAll() {
  for (MountRecord& record : journal_.layout().mounts) {
    if (record.in_use == 0) continue;
    door_.RemoveImage(record);
    record.in_use = 0;
  }
}

bool Mounts::IsVisible(const MountRecord& record) {
  if (record.mount_point[0] == 0) return false;
  const MountLine* const line = list_.Find(record.mount_id, record.device);
  return line != nullptr && line->point == record.mount_point && FilesystemLives(record) &&
         !IsHidden(list_.Lines(), *line);
}

void Mounts::Follow() {
  for (MountRecord& record : journal_.layout().mounts) {
    if (record.in_use == 0 || record.mount_point[0] == 0) continue;
    const MountLine* const line = list_.Find(record.mount_id, record.device);
    if (line == nullptr || line->point == record.mount_point || !FilesystemLives(record)) continue;
    Log("%s was moved to %s by somebody", record.mount_point, line->point.c_str());
    if (!CopyText(line->point, record.mount_point)) record.mount_point[0] = 0;
  }
}

void Mounts::ForgetDead() {
  Follow();
  for (MountRecord& record : journal_.layout().mounts) {
    if (record.in_use == 0 || FilesystemLives(record)) continue;
    door_.RemoveImage(record);
    record.in_use = 0;
  }
}

}  // namespace sluice::keeper
