#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace sluice {

// The extended attributes of a file on disk, by name; of a symbolic link its own. None where the file system
// has no such thing. Errors: ResourceExhausted (more than `bytes_max` of names and values), and those of
// listxattr(2) and getxattr(2).
absl::StatusOr<std::map<std::string, std::string>> ReadXattrs(const std::string& path, uint64_t bytes_max);

}  // namespace sluice
