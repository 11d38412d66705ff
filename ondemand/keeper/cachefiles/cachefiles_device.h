#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "ondemand/keeper/cachefiles/cachefiles_wire.h"
#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/result.h"

namespace sluice::keeper {

// /dev/cachefiles in on-demand mode. Sources: Documentation/filesystems/caching/cachefiles.rst,
// fs/cachefiles/daemon.c and ondemand.c.
//
// Thread-safe.
class CachefilesDevice {
 public:
  virtual ~CachefilesDevice() = default;

  // Polls readable when there is a request.
  virtual int fd() const = 0;
  // One request; 0 if there is none, and never blocks. Errors as read(2): EMFILE and EEXIST say that an OPEN
  // was refused by the kernel itself.
  virtual ssize_t Read(std::span<char> buffer) = 0;
  // Writes one command. Errors: as the kernel says.
  virtual Outcome Command(std::string_view command) = 0;
  // Ends a READ, through a descriptor of its object. What of its range is not in the object then is an error
  // to the reader. EINVAL: the kernel does not wait for it (any more).
  virtual Outcome CompleteRead(int object, uint32_t id) = 0;
};

// The kernel's. `device` is open for reading and writing.
std::unique_ptr<CachefilesDevice> MakeCachefilesDevice(Descriptor device);

struct CachefilesOptions {
  std::string directory;       // of the kernel's copies; made if it is missing
  std::string tag = "sluice";  // what fscache calls the cache
  CachefilesLimits blocks{3, 2, 1};
  CachefilesLimits files{3, 2, 0};
  int busy_tries = 25;  // a fifth of a second each: whoever had the device may be about to let go
};

// A cache that is bound, as long as `device` is open anywhere.
struct CachefilesCache {
  std::unique_ptr<CachefilesDevice> device;
  Descriptor directory;  // its `cache` directory
  Descriptor store;      // the store's files, that objects are filled from
};

// Binds a new one. Errors, with words that say what is missing: EBUSY (there can be one in the machine),
// ENOENT (no /dev/cachefiles), EOPNOTSUPP, EINVAL (the kernel has no on-demand mode), and others.
Result<CachefilesCache> BindCache(const CachefilesOptions& options, const std::string& blobs_dir);

// One that a predecessor has bound. `directory` as above.
Result<CachefilesCache> AdoptCache(Descriptor device, Descriptor directory, const std::string& blobs_dir);

}  // namespace sluice::keeper
