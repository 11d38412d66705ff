#include "node/cli/mount_view.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "ondemand/mount_point.h"

namespace sluice::cli {

bool IsMountedHere(const std::string& mount_point) {
  const absl::StatusOr<std::vector<ondemand::MountInfo>> mounts = ondemand::ReadMountInfo();
  if (!mounts.ok()) return true;  // nobody can tell
  return std::any_of(mounts->begin(), mounts->end(), [&](const ondemand::MountInfo& mount) {
    return mount.mount_point == mount_point && mount.type == "erofs";
  });
}

std::string OwnNamespace() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/ns/mnt", error).string();
}

absl::Status NotHere() {
  return absl::FailedPreconditionError(absl::StrCat(
      "sluiced and its keeper mount in another mount namespace than this one (", OwnNamespace(),
      "), where nothing of it is seen; the mount was taken down again. Run this where sluiced runs (nsenter "
      "--mount --target PID), or start sluiced where its mounts are to be seen"));
}

}  // namespace sluice::cli
