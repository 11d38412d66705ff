#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace sluice {

// Files as sequences of bytes. Errors, of all: those of the system, which name `path`; ResourceExhausted (no
// room left) tells how to use another directory.

// Writes all bytes at the file's position.
absl::Status WriteAll(int file, std::span<const std::byte> bytes, const std::string& path);

// Hands out all bytes from the file's start in pieces of at most 1 MiB; ends at the first error of
// `on_bytes`.
absl::Status ReadAll(int file, const std::string& path,
                     absl::FunctionRef<absl::Status(std::span<const std::byte>)> on_bytes);

// Fills `bytes` from `offset`. DataLoss if the file ends before.
absl::Status ReadAt(int file, const std::string& path, uint64_t offset, std::span<std::byte> bytes);

}  // namespace sluice
