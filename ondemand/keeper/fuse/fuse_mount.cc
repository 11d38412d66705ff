#include "ondemand/keeper/fuse/fuse_mount.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cstdint>

namespace sluice::keeper {
namespace {

Result<Descriptor> OpenStore(const std::string& blobs_dir) {
  Descriptor store(open(blobs_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!store.valid()) return ErrnoError("open " + blobs_dir);
  return store;
}

Outcome Configure(int context, int device) {
  const std::string options[][2] = {{"source", "sluice"},
                                    {"subtype", "sluice"},
                                    {"fd", std::to_string(device)},
                                    {"rootmode", "40000"},
                                    {"user_id", "0"},
                                    {"group_id", "0"},
                                    {"max_read", std::to_string(kFuseReadBytesMax)}};
  for (const auto& [key, value] : options) {
    if (fsconfig(context, FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0) != 0)
      return ErrnoError("set " + key + " of the FUSE file system");
  }
  // Readers of an image are of any user; nobody else has a way in.
  if (fsconfig(context, FSCONFIG_SET_FLAG, "allow_other", nullptr, 0) != 0)
    return ErrnoError("let all users read through the FUSE file system");
  if (fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return ErrnoError("make the FUSE file system (needs CAP_SYS_ADMIN)");
  return {};
}

}  // namespace

Result<FuseMount> MakeFuseMount(const std::string& blobs_dir) {
  FuseMount mount;
  mount.device.reset(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!mount.device.valid()) return ErrnoError("open /dev/fuse (needs CONFIG_FUSE_FS)");
  Result<Descriptor> store = OpenStore(blobs_dir);
  if (!store.ok()) return store.error();
  mount.store = std::move(store.value());
  const Descriptor context(fsopen("fuse", FSOPEN_CLOEXEC));
  if (!context.valid()) return ErrnoError("open the FUSE file system");
  if (Outcome made = Configure(context.get(), mount.device.get()); !made.ok()) return made.error();
  const unsigned attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
  mount.tree.reset(fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
  if (!mount.tree.valid()) return ErrnoError("mount the FUSE file system");
  return mount;
}

Result<FuseMount> AdoptFuseMount(Descriptor device, Descriptor tree, const std::string& blobs_dir) {
  Result<Descriptor> store = OpenStore(blobs_dir);
  if (!store.ok()) return store.error();
  return FuseMount{std::move(device), std::move(tree), std::move(store.value())};
}

}  // namespace sluice::keeper
