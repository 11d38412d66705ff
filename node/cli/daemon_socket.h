#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "node/cli/invocation.h"

// What all clients of the daemon do to reach it.

namespace sluice::cli {

// A way to call the daemon, and the longest that a call may take if --timeout says so.
struct DaemonSocket {
  std::shared_ptr<grpc::Channel> channel;
  std::optional<absl::Duration> timeout;
  // Whether it sees the same mounts as we do; false where nobody can tell.
  bool same_mounts = false;
};

// Of one answer: a page of a thousand blobs, every mount of a busy node, or a recipe.
inline constexpr int kAnswerBytesMax = 16 << 20;

// What --timeout says; nothing if it is not given. Errors: InvalidArgument.
absl::StatusOr<std::optional<absl::Duration>> TimeoutOf(const GlobalFlags& flags);

// `flag` is the one that names the socket, "--socket", for messages. Errors: DaemonUnreachable (no socket, or
// nobody listens), PermissionDenied (the socket may not be opened), InvalidArgument (the path, --timeout).
absl::StatusOr<DaemonSocket> ConnectSocket(const GlobalFlags& flags, const std::string& path,
                                           const std::string& flag);

// Same code, same message.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace sluice::cli
