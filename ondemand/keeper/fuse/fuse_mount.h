#pragma once

#include <string>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/result.h"

namespace sluice::keeper {

// A FUSE file system that no path leads to: only EROFS, given files of `tree`, reads from it.
// Sources: Documentation/filesystems/fuse.rst, fsmount(2).
struct FuseMount {
  Descriptor device;  // /dev/fuse: the connection
  Descriptor tree;    // its root directory
  Descriptor store;   // the store's files
};

// Bytes of one read request at most. A reply of that length and its header fit into a pipe of the size that
// every process may have.
inline constexpr uint32_t kFuseReadBytesMax = 512 << 10;

// A new one. Nothing of it can be reached until somebody answers the connection's requests. Errors: ENODEV,
// ENOENT (the kernel has no FUSE), EPERM and others, with words that say what is missing.
Result<FuseMount> MakeFuseMount(const std::string& blobs_dir);

// One that a predecessor's daemon has kept.
Result<FuseMount> AdoptFuseMount(Descriptor device, Descriptor tree, const std::string& blobs_dir);

}  // namespace sluice::keeper
