#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "node/cancel_check.h"
#include "node/executor.h"

namespace sluice {

// What a program said when it was asked.
struct ProgramAnswer {
  int exit_code = 0;
  std::string output;  // of its standard output, the first kOutputBytesMax; without spaces at either end
  std::string errors;  // the same of its standard error
};

// Runs a program once: no shell, no descriptor but the three, `/` as its directory, PATH alone in its
// environment. What it says beyond kOutputBytesMax is thrown away. When it has ended, or `timeout` is over,
// it and whoever it has begun in its process group is killed. Blocks for at most `timeout`, and a moment.
// Errors: DeadlineExceeded; Cancelled (soon after that was wanted); Unavailable (it can't be run, was killed
// by somebody, or this host lacks something).
//
// Thread-safe. REQUIRES: input.size() <= kInputBytesMax
inline constexpr size_t kOutputBytesMax = 4 << 10;
inline constexpr size_t kInputBytesMax = 4 << 10;
absl::StatusOr<ProgramAnswer> RunProgram(const std::string& path, const std::vector<std::string>& arguments,
                                         const std::string& input, Duration timeout,
                                         const CancelCheck& cancelled);

}  // namespace sluice
