#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::bench {

// A read that a program's start made the kernel ask the file system for.
struct TraceRead {
  static constexpr uint64_t kLengthMax = 16 << 20;  // bytes; kernels read less at once

  // Since the read before had ended, or the program was started: what the program did meanwhile.
  std::chrono::microseconds gap{0};
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes
  std::string path;     // of a regular file, below the image's root

  friend bool operator==(const TraceRead&, const TraceRead&) = default;
};

// What a program's start read of an image, one after the other.
struct StartTrace {
  static constexpr size_t kReadsMax = 100'000;
  static constexpr uint64_t kBytesMax = uint64_t{2}
                                        << 30;  // of all reads; they are kept in memory until checked

  std::vector<TraceRead> reads;
  std::chrono::microseconds end_gap{0};  // from the last read until the program had ended

  // The program's own time: what its start takes if no read takes any.
  std::chrono::microseconds OwnTime() const;
  // Of all reads.
  uint64_t Bytes() const;
};

// A line for each read, "GAP_US OFFSET LENGTH PATH", and as the last one "GAP_US end"; lines that begin with
// # are skipped. Errors name the line: InvalidArgument.
absl::StatusOr<StartTrace> ParseTrace(absl::string_view text);

}  // namespace sluice::bench
