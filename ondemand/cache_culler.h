#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob_key.h"
#include "node/geometry.h"
#include "ondemand/keeper/descriptor.h"

namespace sluice::ondemand {

// Discards files of the kernel's cache that are not in use. The kernel looks names up in the working
// directory of the thread that says them: this has a thread with one of its own. Source:
// Documentation/filesystems/caching/cachefiles.rst, "Cache Culling".
//
// Thread-safe. Calls wait for one another.
class CacheCuller {
 public:
  // Says one command to the device: "cull NAME" or "inuse NAME". Errors as the kernel's: EBUSY, ENOENT and
  // ESTALE are normal.
  using Say = std::function<int(const std::string& command)>;

  // `directory` is the cache's, with a directory for each volume.
  CacheCuller(Say say, keeper::Descriptor directory);
  ~CacheCuller();
  CacheCuller(const CacheCuller&) = delete;
  CacheCuller& operator=(const CacheCuller&) = delete;

  // Discards all copies of the blob, in every volume. Errors: FailedPrecondition if one is in use (the others
  // are gone); Unavailable. OK if there is none.
  absl::Status Discard(const BlobKey& key);
  // Takes the ranges out of all copies whose name begins so, in every volume, though they be in use: the
  // kernel then asks for them again. On the caller's thread. REQUIRES: the ranges are whole pages. Errors:
  // Unavailable. OK if there is none.
  absl::Status Drop(const std::string& name, const std::vector<ByteRange>& ranges);
  // Discards the copies that were opened longest ago until about `bytes` are free. Returns how many were
  // freed.
  uint64_t MakeRoom(uint64_t bytes);
  // What all copies take up on disk, bytes.
  uint64_t Size();

 private:
  struct Entry {
    std::string directory;  // relative to the cache's
    std::string name;
    int64_t accessed_ns = 0;
    uint64_t bytes = 0;
  };

  void Run();
  template <typename T>
  T OnThread(std::function<T()> call);
  // Those whose name begins with `prefix`.
  std::vector<Entry> Entries(const std::string& prefix) const;
  int Cull(const Entry& entry);

  const Say say_;
  const keeper::Descriptor directory_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<std::function<void()>> calls_;
  bool stopping_ = false;

  bool has_own_directory_ = false;  // of the thread
  std::thread thread_;
};

}  // namespace sluice::ondemand
