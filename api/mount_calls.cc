#include "api/mount_calls.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/call_deadline.h"
#include "api/error_details.h"
#include "api/proto_conversion.h"
#include "sluice/v1/admin.pb.h"

namespace sluice::api {

namespace {

// As far as it takes to tell registries apart. Source: docker's reference grammar.
std::string RegistryOf(const std::string& reference) {
  const std::string first = reference.substr(0, reference.find('/'));
  const bool is_host = first.size() < reference.size() &&
                       (first.find_first_of(".:") != std::string::npos || first == "localhost");
  return is_host ? first : "docker.io";
}

}  // namespace

// gRPC keeps all of it until the reactor has finished.
struct MountCalls::Call {
  grpc::CallbackServerContext* context;
  grpc::ServerUnaryReactor* reactor;
  v1::MountResponse* response;

  void Finish(const absl::StatusOr<MountInfo>& result) const {
    if (result.ok()) ToProto(*result, *response->mutable_mount());
    reactor->Finish(ToGrpc(result.status()));
  }
};

struct MountCalls::Request {
  std::string id;  // constant; empty: nobody can ask for it again
  MountRequest mount;
  // Guarded by the mutex.
  std::vector<Call> callers;     // that wait; none: it is not running
  std::optional<Digest> made{};  // the manifest of the mount; absent until it has succeeded
};

grpc::ServerUnaryReactor* MountCalls::Begin(grpc::CallbackServerContext* context,
                                            const v1::MountRequest& request, v1::MountResponse* response) {
  const Call call{context, context->DefaultReactor(), response};
  absl::StatusOr<MountRequest> mount = FromProto(request, Instant());
  absl::StatusOr<RequestPtr> joined =
      mount.ok() ? Join(request.request_id(), *std::move(mount), call) : mount.status();
  if (!joined.ok()) {
    call.Finish(joined.status());
  } else if (*joined) {
    const absl::Status posted =
        pool_.Post([this, to_run = *joined] { Run(to_run); }, RegistryOf((*joined)->mount.reference));
    if (!posted.ok()) End(*joined, posted);
  }
  return call.reactor;
}

absl::StatusOr<MountCalls::RequestPtr> MountCalls::Join(const std::string& id, MountRequest mount,
                                                        const Call& call) {
  std::lock_guard lock(mutex_);
  const auto known = id.empty() ? named_.end() : named_.find(id);
  if (known == named_.end()) {
    auto request = std::make_shared<Request>(Request{id, std::move(mount), {call}});
    if (!id.empty()) named_.emplace(id, request);
    return request;
  }
  Request& request = *known->second;
  if (!SameMount(request.mount, mount)) {
    return InvalidField("request_id",
                        absl::StrCat("\"", id, "\" is of another mount (", request.mount.reference, " on ",
                                     request.mount.mount_point, "); give each request an id of its own"));
  }
  if (request.callers.size() >= limits_.callers_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(limits_.callers_max, " calls wait for request \"", id, "\" already; try again later"));
  }
  request.callers.push_back(call);
  if (request.callers.size() > 1) return nullptr;
  std::erase(succeeded_, id);
  return known->second;
}

void MountCalls::Run(const RequestPtr& request) {
  const absl::StatusOr<Instant> deadline = DeadlineOf(*request);
  End(request, deadline.ok() ? Mount(*request, *deadline) : deadline.status());
}

// The latest of those whose callers are there still. Errors: those of the first caller.
absl::StatusOr<Instant> MountCalls::DeadlineOf(const Request& request) {
  std::lock_guard lock(mutex_);
  absl::StatusOr<Instant> latest = api::DeadlineOf(*request.callers.front().context, limits_.call_max);
  for (const Call& call : request.callers) {
    const absl::StatusOr<Instant> deadline = api::DeadlineOf(*call.context, limits_.call_max);
    if (deadline.ok() && (!latest.ok() || *deadline > *latest)) latest = deadline;
  }
  return latest;
}

bool MountCalls::HasCallers(const Request& request) {
  std::lock_guard lock(mutex_);
  return std::any_of(request.callers.begin(), request.callers.end(),
                     [](const Call& call) { return !call.context->IsCancelled(); });
}

absl::StatusOr<MountInfo> MountCalls::Mount(const Request& request, Instant deadline) {
  absl::StatusOr<MountInfo> made = FindMade(request);
  if (!absl::IsNotFound(made.status())) return made;
  MountRequest mount = request.mount;
  mount.deadline = deadline;
  mount.cancelled = CancelCheck([this, &request] { return !HasCallers(request); });
  return mounts_.Mount(mount);
}

// Errors: NotFound (it was never made, or does not stand any more).
absl::StatusOr<MountInfo> MountCalls::FindMade(const Request& request) {
  std::optional<Digest> manifest;
  {
    std::lock_guard lock(mutex_);
    manifest = request.made;
  }
  if (!manifest) return absl::NotFoundError("it was not made yet");
  absl::StatusOr<std::vector<MountInfo>> mounts = mounts_.ListMounts();
  if (!mounts.ok()) return mounts.status();
  for (MountInfo& mount : *mounts) {
    if (mount.mount_point == request.mount.mount_point && mount.reference == request.mount.reference &&
        mount.manifest_digest == *manifest) {
      return std::move(mount);
    }
  }
  return absl::NotFoundError("it was unmounted");
}

void MountCalls::End(const RequestPtr& request, const absl::StatusOr<MountInfo>& result) {
  std::vector<Call> callers;
  {
    std::lock_guard lock(mutex_);
    callers.swap(request->callers);
    if (!request->id.empty() && !result.ok()) named_.erase(request->id);
    if (!request->id.empty() && result.ok()) {
      request->made = result->manifest_digest;
      succeeded_.push_back(request->id);
      if (succeeded_.size() > limits_.remembered_max) {
        named_.erase(succeeded_.front());
        succeeded_.pop_front();
      }
    }
  }
  for (const Call& caller : callers) caller.Finish(result);
}

}  // namespace sluice::api
