#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice::ondemand {

// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)), escapes undone.
struct MountInfo {
  int id = 0;
  std::string device;  // "major:minor"
  std::string mount_point;
  std::string type;
  std::string source;
};

// Lines that are not well-formed are left out.
std::vector<MountInfo> ParseMountInfo(std::string_view text);

// This process's mounts. Errors: Unavailable.
absl::StatusOr<std::vector<MountInfo>> ReadMountInfo();

// Whether an image can be mounted at `path`. Errors: InvalidArgument (not absolute, or longer than 1,023
// bytes), NotFound, FailedPrecondition (not a directory; not empty; something is mounted there already).
absl::Status CheckMountPoint(const std::string& path);

}  // namespace sluice::ondemand
