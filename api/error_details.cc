#include "api/error_details.h"

#include <chrono>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"

namespace sluice::api {
namespace {

// gRPC's headers have little room, and the message is in them already.
constexpr size_t kDescriptionBytesMax = 256;

void AddDetail(absl::Status& status, const google::protobuf::Message& detail) {
  status.SetPayload(absl::StrCat("type.googleapis.com/", detail.GetDescriptor()->full_name()),
                    absl::Cord(detail.SerializeAsString()));
}

}  // namespace

absl::Status WithRetryAfter(absl::Status status, Duration delay) {
  google::rpc::RetryInfo info;
  const auto seconds = std::chrono::floor<std::chrono::seconds>(delay);
  info.mutable_retry_delay()->set_seconds(seconds.count());
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>((delay - seconds).count()));
  AddDetail(status, info);
  return status;
}

absl::Status InvalidField(const std::string& field, const std::string& what) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
  google::rpc::BadRequest details;
  google::rpc::BadRequest::FieldViolation& violation = *details.add_field_violations();
  violation.set_field(field.substr(0, kDescriptionBytesMax));
  violation.set_description(what.substr(0, kDescriptionBytesMax));
  AddDetail(status, details);
  return status;
}

}  // namespace sluice::api
