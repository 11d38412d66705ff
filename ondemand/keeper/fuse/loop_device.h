#pragma once

#include <map>
#include <string>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/result.h"

namespace sluice::keeper {

// A read-only loop device (loop(4)) that goes by itself when nothing has it open any more, nor mounted.
struct LoopDevice {
  std::string path;
  Descriptor device;
};

// Makes the file at `path` readable as a block device. Errors: ENOENT and ENXIO where the kernel has no loop
// devices (CONFIG_BLK_DEV_LOOP), EBUSY if all are in use, else errno values.
Result<LoopDevice> AttachLoop(const std::string& path);

// The loop devices that there are, so that mounts which share a blob share its device. The kernel counts who
// has a device open and clears it after the last one, also where a keeper has died: nothing of that is
// written down. Sources: loop(4), Documentation/ABI/testing/sysfs-block-loop.
class LoopDevices {
 public:
  // Those that there are now.
  LoopDevices();

  // The device that AttachLoop has made of this very file, for this mount or an earlier one; else a new one.
  // Not for a file system's first device: the kernel takes two mounts of one of those for the same file
  // system. Errors: as AttachLoop.
  Result<LoopDevice> Share(const std::string& path);

 private:
  std::multimap<std::string, std::string> by_name_;  // of the file, without its directory: the device's path
};

}  // namespace sluice::keeper
