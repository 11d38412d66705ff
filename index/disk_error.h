#pragma once

#include <string>

#include "absl/status/status.h"

namespace sluice::index {

// A failed system call on the store's disk as a status that says what failed and what to do. ENOSPC and
// EDQUOT are ResourceExhausted, EACCES, EPERM and EROFS PermissionDenied, ENOENT NotFound, all else
// Unavailable.
absl::Status DiskError(int error_number, const std::string& what);

// As DiskError, for a write: what is neither a success nor a lack of space is Unavailable.
absl::Status WriteError(int error_number, const std::string& what);

}  // namespace sluice::index
