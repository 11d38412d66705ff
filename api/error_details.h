#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "node/executor.h"

// What a status says to programs beside its code and message: the messages of google.rpc, kept as payloads of
// the absl::Status under the URLs of their types. ToGrpc and ToProto pass them on.

namespace sluice::api {

inline constexpr absl::string_view kDetailUrlPrefix = "type.googleapis.com/google.rpc.";

// The same status with a RetryInfo: the call may succeed after `delay`. REQUIRES: status is not OK, delay >=
// 0
absl::Status WithRetryAfter(absl::Status status, Duration delay);

// InvalidArgument "<field>: <what>" with a BadRequest that names the field.
absl::Status InvalidField(const std::string& field, const std::string& what);

}  // namespace sluice::api
