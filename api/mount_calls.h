#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "api/call_pool.h"
#include "node/executor.h"

namespace grpc {
class CallbackServerContext;
class ServerUnaryReactor;
}  // namespace grpc
namespace sluice::v1 {
class MountRequest;
class MountResponse;
}  // namespace sluice::v1

namespace sluice::api {

// Calls of Mount. Those that name the same request are one: who asks again while it runs gets the answer of
// the first, and after it succeeded the mount that it made, for as long as that stands. What failed is tried
// anew. Those from one registry have no more of the pool than they leave free for others.
//
// Thread-safe.
class MountCalls {
 public:
  struct Limits {
    Duration call_max{};           // of a call that came without a deadline, or with a later one
    size_t remembered_max = 1024;  // requests that succeeded; beyond, the oldest is forgotten
    size_t callers_max = 16;       // that wait for one request; beyond: ResourceExhausted
  };
  // The parts outlive this. The backend is called on the pool.
  MountCalls(MountBackend& mounts, CallPool& pool, Limits limits)
      : mounts_(mounts), pool_(pool), limits_(limits) {}

  // A mount goes on for as long as one of its callers is there, and until the latest of their deadlines as
  // they were when it began.
  grpc::ServerUnaryReactor* Begin(grpc::CallbackServerContext* context, const v1::MountRequest& request,
                                  v1::MountResponse* response);

 private:
  struct Call;
  struct Request;
  using RequestPtr = std::shared_ptr<Request>;

  // The request that the call is to run; null if another one does. Errors: InvalidArgument (the id is of
  // another mount), ResourceExhausted.
  absl::StatusOr<RequestPtr> Join(const std::string& id, MountRequest mount, const Call& call);
  void Run(const RequestPtr& request);
  absl::StatusOr<Instant> DeadlineOf(const Request& request);
  bool HasCallers(const Request& request);
  absl::StatusOr<MountInfo> Mount(const Request& request, Instant deadline);
  absl::StatusOr<MountInfo> FindMade(const Request& request);
  void End(const RequestPtr& request, const absl::StatusOr<MountInfo>& result);

  MountBackend& mounts_;
  CallPool& pool_;
  const Limits limits_;

  std::mutex mutex_;
  // Guarded by mutex_.
  absl::flat_hash_map<std::string, RequestPtr> named_;  // that run or have succeeded, by id
  std::deque<std::string> succeeded_;                   // ids, the oldest first
};

}  // namespace sluice::api
