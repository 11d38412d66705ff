#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "node/cli/interrupt.h"

namespace sluice::cli {

// A program that sluice runs for its user: found in PATH, in a working directory of its own, with `variable`
// ("NAME=value") added to the environment. Its standard output is our standard error, since ours is the
// answer. Once `interrupt` has come it has a second to end by itself, since Ctrl-C reaches it too, and ten
// more after SIGTERM. REQUIRES: `command` is not empty
//
// Gives what a shell would: its exit code, or 128 and the number of the signal that ended it. Errors:
// InvalidArgument (it can't be run).
absl::StatusOr<int> RunCommand(const std::vector<std::string>& command, const std::string& directory,
                               const std::string& variable, Interrupt& interrupt);

}  // namespace sluice::cli
