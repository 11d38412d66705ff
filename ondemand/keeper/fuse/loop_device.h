#pragma once

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

}  // namespace sluice::keeper
