#pragma once

#include <cstddef>

#include "absl/status/status.h"

namespace sluice {

// Threads that the daemon has at its start, and some to spare: libraries begin some of them when they are
// needed first, and end the process where they can't.
inline constexpr size_t kTasksNeeded = 96;

// Whether so many threads may be there at once, beside those that are: makes them, and ends them again.
// Errors: ResourceExhausted (and who sets the limit), Unavailable.
absl::Status CheckTaskLimit(size_t tasks = kTasksNeeded);

}  // namespace sluice
