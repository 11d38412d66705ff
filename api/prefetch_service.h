#pragma once

#include <chrono>
#include <memory>

#include "api/grpc_service.h"
#include "api/locality_backend.h"
#include "api/prefetch_backend.h"
#include "node/executor.h"

namespace sluice::api {

struct PrefetchServiceLimits {
  int watches_max = 64;                             // WatchHints streams at once; beyond: RESOURCE_EXHAUSTED
  int localities_max = 64;                          // calls of GetLocality at once; beyond: the same
  Duration locality_max = std::chrono::seconds(4);  // of one, if its caller does not wait for less
  Duration poll_interval = std::chrono::milliseconds(250);
};

// sluice.v1.PrefetchService over the backends: checks requests and streams progress. What a watcher has not
// read yet is not kept: it gets the latest state when it reads on.
//
// Thread-safe.
class PrefetchService final : public GrpcService {
 public:
  // The backends outlive the service.
  PrefetchService(PrefetchBackend& backend, LocalityBackend& locality, PrefetchServiceLimits limits);
  // REQUIRES: the server that it was registered with has been shut down
  ~PrefetchService() override;
  PrefetchService(const PrefetchService&) = delete;
  PrefetchService& operator=(const PrefetchService&) = delete;

  grpc::Service& service() override;
  const char* name() const override;
  void EndWatches() override;
  void Stop() override;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::api
