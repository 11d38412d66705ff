#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// For a daemon in a pod whose keeper is to outlive it: what has to be so of the pod and its host. The pod
// shares the host's PID namespace, and has the host's folders at their paths.
namespace sluice::ondemand {

// The folder in /proc of a process that sees what the host sees. Errors: FailedPrecondition (the pod has a
// PID namespace of its own, or may not look at the host's processes; a folder is another one on the host, or
// not there), in words that name the setting to change.
absl::StatusOr<std::string> FindHost(const std::string& state_dir, const std::string& runtime_dir);

// Puts a copy of the keeper's executable into `state_dir`, where there is none or another one, and returns
// its path, which is the host's too. A keeper that runs from what was there before goes on to do so. Errors:
// Unavailable. REQUIRES: nobody else does the same there
absl::StatusOr<std::string> PlaceKeeperOnHost(const std::string& keeper_path, const std::string& state_dir);

}  // namespace sluice::ondemand
