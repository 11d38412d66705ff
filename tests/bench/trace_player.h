#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/bench/start_trace.h"

namespace sluice::bench {

// Does to a file system what the program of a trace did: computes through each gap, then reads. One read
// follows the other, on the caller's thread.
//
// Not thread-safe.
class TracePlayer {
 public:
  explicit TracePlayer(StartTrace trace);

  // Finds the files below the directory, which may be a mount with nothing cached. What the kernel reads is
  // the recorded ranges and nothing ahead of them. Errors name the read: NotFound (no such regular file),
  // OutOfRange (a file is shorter than what is read of it), Unavailable (the read failed).
  absl::Status Play(const std::string& root);

  // Whether what Play() has read is what the same files have below another directory; else DataLoss, naming
  // the first read that differs, or an error as of Play(). REQUIRES: Play() succeeded.
  absl::Status CheckAgainst(const std::string& root) const;

 private:
  const StartTrace trace_;
  std::vector<std::byte> bytes_;  // what was read, in order
};

}  // namespace sluice::bench
