#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "api/admin_backend.h"
#include "node/blob_cache.h"
#include "node/digest.h"
#include "node/executor.h"

namespace sluice {

// Brings blobs in whole, and tries again for as long as that is wanted: the registry may be away for hours.
//
// Thread-safe.
class BackgroundFill {
 public:
  struct Limits {
    Duration retry_first = std::chrono::seconds(1);
    Duration retry_max = std::chrono::seconds(60);
  };
  struct Progress {
    api::FillState state = api::FillState::kIdle;
    std::string error;  // of the last try that failed
  };

  BackgroundFill(const Clock& clock, Executor& core, BlobCache& cache, Limits limits);
  // Stops all.
  ~BackgroundFill();

  // No-op if it is under way already.
  void Start(const Digest& digest);
  // What has arrived stays. No-op if it was not started.
  void Stop(const Digest& digest);
  Progress Of(const Digest& digest) const;

 private:
  struct Shared;
  static void Try(const std::shared_ptr<Shared>& shared, const Digest& digest, uint64_t run,
                  Duration retry_after);

  // Also held by callbacks that come late.
  const std::shared_ptr<Shared> shared_;
};

}  // namespace sluice
