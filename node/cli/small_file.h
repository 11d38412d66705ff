#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice::cli {

// Files that a command line names. Errors: those of the system, which name the path.

absl::Status WriteSmallFile(const std::string& path, const std::string& bytes);

// Errors also: InvalidArgument (it has more than `bytes_max`).
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max);

}  // namespace sluice::cli
