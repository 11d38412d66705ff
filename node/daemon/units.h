#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "node/executor.h"

namespace sluice {

// "64Gi", "512Ki", "1M", "4096": a whole number and an optional binary (Ki Mi Gi Ti) or decimal (k M G T)
// unit, as Kubernetes writes quantities. Errors: InvalidArgument, saying what is accepted.
absl::StatusOr<uint64_t> ParseSize(const std::string& text);

// "20ms", "1.5s", "2m", "1h": a number and a unit, which is not optional. Errors: InvalidArgument.
absl::StatusOr<Duration> ParseDuration(const std::string& text);

// "64Gi", or a part of the file system that `directory` lies on, as "80%". Errors: InvalidArgument (neither,
// or nothing), Unavailable (the file system can't be asked), FailedPrecondition (it doesn't say how large it
// is).
absl::StatusOr<uint64_t> CapacityOf(const std::string& text, const std::string& directory);

// The shortest text that parses back to the same value.
std::string FormatSize(uint64_t bytes);
std::string FormatDuration(Duration duration);

}  // namespace sluice
