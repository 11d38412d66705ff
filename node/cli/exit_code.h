#pragma once

#include <string>

#include "absl/status/status.h"

namespace sluice::cli {

// Stable: scripts rely on them. Documented in `sluice --help`.
enum class ExitCode {
  kOk = 0,
  kFailed = 1,
  kUsage = 2,
  kNotFound = 3,
  kUnreachable = 4,  // no daemon answers on the socket
  kRefused = 5,      // not permitted, not on the allow-list, or not in this state
};

// The footer of --help.
extern const char kExitCodesHelp[];

// Unavailable, but the daemon itself, as against something that it needs.
absl::Status DaemonUnreachable(const std::string& message);

ExitCode ExitCodeOf(const absl::Status& status);

// A command that sluice has run for its user has ended with that code, which sluice ends with, too.
absl::Status CommandFailed(const std::string& message, int exit_code);

// What the process ends with: that of a command that failed, else ExitCodeOf.
int ExitNumberOf(const absl::Status& status);

// `status` with "<what>: " before its message, so that the line says what failed.
absl::Status Annotate(const absl::Status& status, const std::string& what);

}  // namespace sluice::cli
