#pragma once

#include <functional>
#include <span>
#include <string>

#include "ondemand/keeper/door.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/mount_list.h"
#include "ondemand/keeper/result.h"
#include "ondemand/keeper/wire.h"

namespace sluice::keeper {

// The EROFS mounts that read their blobs through the door. Kept in the journal, so that a successor knows
// them. One thread (the control's).
class Mounts {
 public:
  // Both outlive it.
  Mounts(Journal& journal, Door& door) : journal_(journal), door_(door) {}

  // Descriptors: of what is mounted, and of the directory that it is mounted on, which may be on a file
  // system that does not answer any more.
  struct Files {
    int bootstrap = -1;
    int directory = -1;
  };

  // Mounts the bootstrap with the devices of the call, read-only. Reads of the bootstrap itself come through
  // the door only if the kernel has a copy of its own of it (cachefiles). Where the kernel mounts only block
  // devices, the FUSE door's files get loop devices, one a blob for all mounts, which go with the last of
  // these. When it returns the image's root directory was read, and all its blobs are open in the kernel.
  // REQUIRES: Door::Prove() was successful just before. Errors: ENODEV (a device is not guarded), ENOSPC (too
  // many mounts), else what the kernel says, with its own words. Source: Documentation/filesystems/erofs.rst,
  // "device=%s"; fsopen(2), fsconfig(2), fsmount(2).
  Outcome Mount(const MountCall& call, const Files& files, std::span<const int> abort_on);
  // Of what is busy: refused, or taken out of the way, for whoever uses it to keep until he ends.
  enum class IfBusy { kRefuse, kDetach };
  // Errors: ENOENT (none of ours), EBUSY, EINVAL, ETIMEDOUT (the way to it leads through a file system that
  // does not answer; it may be unmounted when that does).
  Outcome Unmount(const std::string& mount_point, IfBusy if_busy = IfBusy::kRefuse);

  // Takes a file system for one of ours until it is gone, though it is mounted nowhere that we know of.
  // Idempotent. Errors: ENOENT (it is gone), ENOSPC.
  Outcome AdoptOrphan(const OrphanCall& call);

  // The first mount at or after entry `from` that can be seen, wherever it was moved to; nullptr if there is
  // none.
  const MountRecord* NextVisible(uint32_t from, uint32_t* entry);
  // Whether a live file system reads from the blob, or from any: also one that was unmounted lazily and whose
  // files are still open, as its holes must stay guarded.
  bool Uses(uint32_t blob_entry);
  bool Any();
  // Whether a path leads to any of them.
  bool AnyVisible();
  // Those whose file systems live too: for a keeper that leaves them behind.
  void ForgetAll();

 private:
  bool IsVisible(const MountRecord& record);
  // Notes where mounts were moved to.
  void Follow();
  void ForgetDead();
  Outcome MountFresh(const MountCall& call, const Files& files, std::span<const int> abort_on,
                     MountRecord& place);
  Result<MountRecord> Describe(const MountCall& call, const std::string& domain, uint32_t tried) const;
  Result<std::string> FreeFsid(const MountCall& call, const std::string& domain, uint32_t tried) const;
  Outcome MountAt(const MountCall& call, const Files& files, std::span<const int> abort_on,
                  MountRecord& record, MountRecord& place);
  Outcome MakeAndAttach(const MountCall& call, const Files& files, std::span<const int> abort_on,
                        MountRecord& record, MountRecord& place);
  Result<Descriptor> MakeFilesystem(const MountCall& call, int bootstrap, std::span<const int> abort_on);
  Result<Descriptor> MountCache(const MountRecord& record, uint32_t flags, std::span<const int> abort_on);
  Result<Descriptor> MountNamedCopies(const MountRecord& record, uint32_t flags,
                                      std::span<const int> abort_on);
  // Waits until none is missing, for as long as they get fewer.
  bool AwaitFiles(const std::function<size_t()>& missing) const;
  Result<std::string> DevicePath(uint32_t blob_entry);
  int64_t TimeoutMs() const;

  Journal& journal_;
  Door& door_;
  MountList list_;
};

}  // namespace sluice::keeper
