#pragma once

#include <memory>

#include "api/admin_backend.h"
#include "node/executor.h"

namespace grpc {
class Service;
}

namespace sluice::api {

struct AdminServiceLimits {
  int workers = 8;             // calls into the backend at once
  int calls_waiting_max = 64;  // beyond: RESOURCE_EXHAUSTED
  int watches_max = 64;        // WatchFill streams at once; beyond: RESOURCE_EXHAUSTED
  Duration fill_poll_interval = std::chrono::milliseconds(250);
  Duration call_max =
      std::chrono::minutes(30);  // the deadline of a call that came without one, or a later one
};

// sluice.v1.AdminService over the backend: checks requests, runs the backend's blocking calls on its own
// worker threads, and turns absl::Status into grpc::Status (same code, same message).
//
// Thread-safe.
class AdminService {
 public:
  // The backend outlives the service.
  AdminService(AdminBackend backend, AdminServiceLimits limits);
  // REQUIRES: the server that it was registered with has been shut down. Waits for calls into the backend.
  ~AdminService();
  AdminService(const AdminService&) = delete;
  AdminService& operator=(const AdminService&) = delete;

  // To be registered with a grpc::ServerBuilder; owned by this.
  grpc::Service& service();

  // Ends all watches with UNAVAILABLE, and any that comes later. For a server that is about to shut down.
  void EndWatches();
  // Its threads have ended when this returns. REQUIRES: no calls come any more
  void Stop();

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::api
