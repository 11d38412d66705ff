#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice::ondemand {

// A super block of EROFS in the kernel: it lives while it is mounted anywhere, also below an overlay, and
// while files of it are open. Source: Documentation/ABI/testing/sysfs-fs-erofs.
struct ErofsInstance {
  std::string name;    // of its directory in /sys/fs/erofs; may be another's when it is gone
  uint64_t inode = 0;  // of that directory; another's never before the machine starts again
  std::string boot;    // from which start of the machine to which end; /proc/sys/kernel/random/boot_id

  bool known() const { return !name.empty() && inode != 0; }
  friend bool operator==(const ErofsInstance&, const ErofsInstance&) = default;
};

// This start of the machine; empty if /proc does not tell.
std::string BootId();

// Whether it lives still. In doubt it does, as the holes of its blobs read as zeros when nobody guards them;
// one that is not known() does for as long as it may.
bool Lives(const ErofsInstance& instance);

// The one that is mounted at `path`, topmost. Errors: NotFound (something else is, or nothing), Unavailable
// (the kernel does not say: before 6.9).
absl::StatusOr<ErofsInstance> ErofsInstanceAt(const std::string& path);

// Has the kernel forget what it has read of files, of all file systems, but for pages that are mapped.
// Errors: Unavailable. Source: drop_caches in proc_sys_vm(5).
absl::Status DropCachedPages();

}  // namespace sluice::ondemand
