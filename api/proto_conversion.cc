#include "api/proto_conversion.h"

#include <grpcpp/support/status.h>
#include <limits.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "sluice/v1/admin.pb.h"

namespace sluice::api {
namespace {

// Of a reference: twice what a registry's name and a repository of 255 bytes with a digest take.
constexpr size_t kReferenceBytesMax = 1024;
// gRPC refuses headers above 8 KiB, and percent-encoding may treble a message.
constexpr size_t kStatusMessageBytesMax = 2048;

v1::Source ToProto(SourceKind kind) {
  switch (kind) {
    case SourceKind::kLocal:
      return v1::SOURCE_LOCAL;
    case SourceKind::kPeer:
      return v1::SOURCE_PEER;
    case SourceKind::kOrigin:
      return v1::SOURCE_ORIGIN;
  }
  return v1::SOURCE_UNSPECIFIED;
}

v1::FillState ToProto(FillState state) {
  switch (state) {
    case FillState::kIdle:
      return v1::FILL_STATE_IDLE;
    case FillState::kFilling:
      return v1::FILL_STATE_FILLING;
    case FillState::kComplete:
      return v1::FILL_STATE_COMPLETE;
    case FillState::kFailed:
      return v1::FILL_STATE_FAILED;
  }
  return v1::FILL_STATE_UNSPECIFIED;
}

void ToProto(const BlobPresence& from, v1::BlobPresence& to) {
  to.set_digest(from.digest.ToString());
  to.set_size_bytes(from.size_bytes);
  to.set_present_bytes(from.present_bytes);
}

template <typename Message>
void AddServed(const ServedTotals& from, Message& to) {
  for (int i = 0; i < kSourceKindCount; ++i) {
    v1::SourceTotals& totals = *to.add_served();
    totals.set_source(ToProto(static_cast<SourceKind>(i)));
    totals.set_reads(from.reads[i]);
    totals.set_bytes(from.bytes[i]);
  }
}

}  // namespace

void ToProto(const NodeStatus& from, v1::NodeStatus& to) {
  to.set_version(from.version);
  to.set_backend(from.backend);
  to.set_backend_reason(from.backend_reason);
  const auto seconds = std::chrono::floor<std::chrono::seconds>(from.uptime);
  to.mutable_uptime()->set_seconds(seconds.count());
  to.mutable_uptime()->set_nanos(static_cast<int32_t>((from.uptime - seconds).count()));
  to.mutable_store()->set_capacity_bytes(from.store.capacity_bytes);
  to.mutable_store()->set_size_bytes(from.store.size_bytes);
  to.mutable_store()->set_blob_count(from.store.blob_count);
  to.set_mount_count(from.mount_count);
  AddServed(from.served, to);
  to.set_read_errors(from.read_errors);
  to.set_origin_bytes(from.origin_bytes);
  to.set_member_count(from.member_count);
  for (const PeerLane lane : {PeerLane::kExpress, PeerLane::kSwarm}) {
    v1::LaneTotals& totals = *to.add_lanes();
    totals.set_lane(lane == PeerLane::kExpress ? v1::LANE_EXPRESS : v1::LANE_SWARM);
    totals.set_received_bytes(from.peer_received_bytes[static_cast<size_t>(lane)]);
    totals.set_sent_bytes(from.peer_sent_bytes[static_cast<size_t>(lane)]);
  }
}

void ToProto(const MountInfo& from, v1::MountInfo& to) {
  to.set_reference(from.reference);
  to.set_manifest_digest(from.manifest_digest.ToString());
  to.set_mount_point(from.mount_point);
  to.set_backend(from.backend);
  for (const BlobPresence& blob : from.blobs) ToProto(blob, *to.add_blobs());
  AddServed(from.served, to);
  to.set_read_errors(from.read_errors);
  to.set_last_error(from.last_error);
}

void ToProto(const FillProgress& from, v1::BlobFill& to) {
  ToProto(from.blob, *to.mutable_blob());
  to.set_state(ToProto(from.state));
  to.set_error(from.error);
}

void ToProto(const BlobInfo& from, v1::BlobInfo& to) {
  to.set_digest(from.digest.ToString());
  to.set_size_bytes(from.size_bytes);
  to.set_chunk_size_bytes(from.chunk_size_bytes);
  to.set_present_bytes(from.present_bytes);
  to.set_unverified_chunks(from.unverified_chunks);
  to.set_recipe_bound(from.recipe_bound);
  to.set_refused(from.refused);
  to.set_pinned(from.pinned);
  to.set_lease_count(from.lease_count);
  const auto accessed = from.last_access.time_since_epoch();
  if (accessed.count() > 0) {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(accessed);
    to.mutable_last_access_time()->set_seconds(seconds.count());
    to.mutable_last_access_time()->set_nanos(static_cast<int32_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(accessed - seconds).count()));
  }
  for (const BlobOrigin& origin : from.origins) {
    v1::BlobOrigin& added = *to.add_origins();
    added.set_registry(origin.registry);
    added.set_repository(origin.repository);
  }
}

absl::Status CheckMountPoint(const std::string& mount_point) {
  if (mount_point.empty()) return absl::InvalidArgumentError("mount_point is empty; name a directory");
  if (mount_point.front() != '/') {
    return absl::InvalidArgumentError(absl::StrCat("mount_point \"", mount_point.substr(0, 256),
                                                   "\" is not absolute; it must begin with a slash"));
  }
  if (mount_point.size() >= PATH_MAX || mount_point.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("mount_point is longer than ", PATH_MAX - 1, " bytes or holds a zero byte"));
  }
  return absl::OkStatus();
}

absl::StatusOr<MountRequest> FromProto(const v1::MountRequest& from, Instant deadline) {
  if (from.reference().empty()) {
    return absl::InvalidArgumentError("reference is empty; name an image as registry/repository:tag");
  }
  if (from.reference().size() > kReferenceBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("reference has ", from.reference().size(), " bytes; at most ", kReferenceBytesMax));
  }
  if (absl::Status status = CheckMountPoint(from.mount_point()); !status.ok()) return status;
  MountRequest request{
      .reference = from.reference(), .mount_point = from.mount_point(), .deadline = deadline};
  switch (from.fill()) {
    case v1::FILL_UNSPECIFIED:
      request.fill = FillMode::kDefault;
      return request;
    case v1::FILL_ON_DEMAND:
      request.fill = FillMode::kOnDemand;
      return request;
    case v1::FILL_BACKGROUND:
      request.fill = FillMode::kBackground;
      return request;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("fill has the unknown value ", static_cast<int>(from.fill())));
  }
}

grpc::Status ToGrpc(const absl::Status& status) {
  // The codes of absl and gRPC are the same numbers: both are google.rpc.Code.
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      std::string(status.message().substr(0, kStatusMessageBytesMax)));
}

}  // namespace sluice::api
