#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "node/executor.h"

namespace sluice::p2p {

// The IP literals of a host name, without duplicates or order, from the hosts file and the name servers of
// resolv.conf(5), whose search list applies. Blocks for no longer than `wait`, which getaddrinfo(3) can't
// promise: it waits for ever for the rest of an answer over TCP.
// Errors: NotFound (no such name, or it has no address), Unavailable (anything that may pass),
// DeadlineExceeded. Thread-safe.
absl::StatusOr<std::vector<std::string>> ResolveHost(const std::string& host, Duration wait);

}  // namespace sluice::p2p
