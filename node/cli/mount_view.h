#pragma once

#include <string>

#include "absl/status/status.h"

// What this process sees of the daemon's mounts, which may be made in another mount namespace.

namespace sluice::cli {

// Whether an image is mounted there as this process sees it; true if nobody can tell.
bool IsMountedHere(const std::string& mount_point);

// This process's mount namespace, for people.
std::string OwnNamespace();

// FailedPrecondition: what was mounted, and taken down again, is not seen here.
absl::Status NotHere();

}  // namespace sluice::cli
