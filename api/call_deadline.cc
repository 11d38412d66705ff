#include "api/call_deadline.h"

#include <grpcpp/server_context.h>

#include <chrono>

namespace sluice::api {

absl::StatusOr<Instant> DeadlineOf(const grpc::CallbackServerContext& context, Duration call_max) {
  if (context.IsCancelled()) return absl::CancelledError("the caller has gone");
  const auto now = std::chrono::system_clock::now();
  const auto deadline = context.deadline();
  if (deadline <= now) return absl::DeadlineExceededError("the call waited for its turn past its deadline");
  const Instant longest = std::chrono::steady_clock::now() + call_max;
  // Compared before subtracting: "no deadline" is so far away that the difference would overflow.
  if (deadline >= now + call_max) return longest;
  return std::chrono::steady_clock::now() + std::chrono::duration_cast<Duration>(deadline - now);
}

}  // namespace sluice::api
