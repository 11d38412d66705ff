#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "api/locality_backend.h"
#include "api/prefetch_backend.h"

namespace grpc {
class Status;
}
namespace sluice::v1 {
class BlobFill;
class Blob;
class CancelHintsRequest;
class Dial;
class GetHintRequest;
class GetLocalityRequest;
class HintStatus;
class ImageLocality;
class ImageProfile;
class ListPeersResponse;
class Mount;
class MountHolder;
class MountRequest;

class NodeStatus;
class StartReport;
class SubmitHintsRequest;
class SubmitResult;
class UnmountResult;
enum LogLevel : int;
class VerifyBlobResponse;
class WatchHintsRequest;
}  // namespace sluice::v1

// Between the plain types of admin_backend.h and prefetch_backend.h and the messages of sluice.v1. Nothing
// here blocks.

namespace sluice::api {

// Writes `from` into the empty message `to`.
void ToProto(const NodeStatus& from, v1::NodeStatus& to);
void ToProto(const PeersReport& from, v1::ListPeersResponse& to);
void ToProto(const DialFinding& from, v1::Dial& to);
void ToProto(const MountInfo& from, v1::Mount& to);
void ToProto(const MountHolder& from, v1::MountHolder& to);
void ToProto(const UnmountResult& from, v1::UnmountResult& to);
void ToProto(const FillProgress& from, v1::BlobFill& to);
void ToProto(const BlobInfo& from, v1::Blob& to);
void ToProto(const VerifyProgress& from, v1::VerifyBlobResponse& to);  // into one that need not be empty
void ToProto(const StartReport& from, v1::StartReport& to);
void ToProto(const ProfileReport& from, v1::ImageProfile& to);
void ToProto(const HintStatus& from, v1::HintStatus& to);
void ToProto(const ImageLocality& from, v1::ImageLocality& to);
void ToProto(const SubmitResult& from, v1::SubmitResult& to);  // but for its id

v1::LogLevel ToProto(LogLevel from);

// The request, checked. Errors: InvalidArgument, naming the field.
absl::StatusOr<MountRequest> FromProto(const v1::MountRequest& from, Instant deadline);
absl::StatusOr<LogLevel> FromProto(v1::LogLevel from);
absl::StatusOr<std::vector<HintSpec>> FromProto(const v1::SubmitHintsRequest& from);
absl::StatusOr<LocalityQuery> FromProto(const v1::GetLocalityRequest& from);
absl::StatusOr<std::string> HintIdFrom(const v1::GetHintRequest& from);
absl::StatusOr<std::vector<std::string>> HintIdsFrom(const v1::WatchHintsRequest& from);
absl::StatusOr<std::vector<std::string>> HintIdsFrom(const v1::CancelHintsRequest& from);
absl::StatusOr<Digest> DigestFrom(const std::string& digest_field);
absl::Status CheckMountPoint(const std::string& mount_point);

// Same code, same details, same message (shortened if it would not fit into HTTP/2 headers).
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace sluice::api
