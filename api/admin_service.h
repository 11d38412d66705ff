#pragma once

#include <memory>

#include "api/admin_backend.h"
#include "api/grpc_service.h"
#include "node/executor.h"

namespace sluice::api {

struct AdminServiceLimits {
  // Calls into the backend at once, of each kind: those that wait for other machines (Mount, DialBack, those
  // of image profiles), those that read whole blobs (VerifyBlob), those that take something away (Unmount,
  // EvictBlob), and all others.
  int slow_workers = 16;  // mounts from one registry have half of them, and half of the places to wait in
  int verify_workers = 2;
  int removal_workers = 2;
  int quick_workers = 4;
  int calls_waiting_max = 64;  // of each kind, twice as many of the first; beyond: RESOURCE_EXHAUSTED
  int watches_max = 64;        // WatchFill streams at once; beyond: RESOURCE_EXHAUSTED
  Duration fill_poll_interval = std::chrono::milliseconds(250);
  Duration verify_interval =
      std::chrono::milliseconds(250);  // between two messages of a VerifyBlob, at least
  Duration call_max =
      std::chrono::minutes(30);  // the deadline of a call that came without one, or a later one
};

// sluice.v1.AdminService over the backend: checks requests, runs the backend's blocking calls on its own
// worker threads, and turns absl::Status into grpc::Status (same code, same message). Calls of one kind do
// not wait for those of another: mounts that a registry stalls leave status and unmounting as they are.
//
// Thread-safe.
class AdminService final : public GrpcService {
 public:
  // The backend outlives the service.
  AdminService(AdminBackend backend, AdminServiceLimits limits);
  // REQUIRES: the server that it was registered with has been shut down. Waits for calls into the backend.
  ~AdminService() override;
  AdminService(const AdminService&) = delete;
  AdminService& operator=(const AdminService&) = delete;

  grpc::Service& service() override;
  const char* name() const override;
  void EndWatches() override;
  void Stop() override;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::api
