#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace sluice {

inline constexpr size_t kStderrBytesMax =
    4 << 10;  // the end of what a program said, kept for the error message

// Runs a program, found through PATH, and waits for it. Its output is dropped, the end of its stderr kept.
// Errors: NotFound (there is no such program), Internal (it failed; the message has its exit status and
// stderr), Unavailable (it can't be started).
absl::Status RunProgram(const std::vector<std::string>& command);

}  // namespace sluice
