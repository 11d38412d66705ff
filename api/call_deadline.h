#pragma once

#include "absl/status/statusor.h"
#include "node/executor.h"

namespace grpc {
class CallbackServerContext;
}

namespace sluice::api {

// When a call has to end on the monotonic clock: its own deadline, or `call_max` from now if that is earlier.
// Errors: Cancelled (the caller has gone), DeadlineExceeded (it has passed already).
absl::StatusOr<Instant> DeadlineOf(const grpc::CallbackServerContext& context, Duration call_max);

}  // namespace sluice::api
