#pragma once

#include "absl/status/statusor.h"
#include "node/cli/daemon_socket.h"
#include "node/cli/invocation.h"

namespace sluice::cli {

// A node that takes hints over TLS (api.prefetchListen). Blocks for some seconds at most. Errors: those of
// the files that the flags name, InvalidArgument (the address, --timeout), DaemonUnreachable.
absl::StatusOr<DaemonSocket> ConnectRemote(const GlobalFlags& flags);

}  // namespace sluice::cli
