#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "node/cli/admin_client.h"
#include "node/cli/invocation.h"
#include "sluice/v1/admin.pb.h"

// Who uses what is mounted, for people and for scripts.

namespace sluice::cli {

// A mount a paragraph: its users below it, a line each. What is unmounted and used still is shown too.
std::string HolderText(const std::vector<v1::Mount>& mounts, const v1::ListHoldersResponse& users);

// {"mounts": [{"mount_point", "reference", "mounted", "holders": [{"pid", "process", "path", "mount_space",
// "pod": {"namespace", "name", "container", "uid"} or null, "container_id"}]}], "more", "complete"}
std::string HolderJson(const std::vector<v1::Mount>& mounts, const v1::ListHoldersResponse& users);

// "pid 7 (nginx) of pod shop/web-0, container nginx, uses /usr/sbin/nginx"
std::string HolderLine(const v1::MountHolder& holder);

// Asks the daemon and prints it; returns how many processes use what is mounted. Errors: of the calls.
absl::StatusOr<size_t> ShowHolders(AdminClient& client, OutputFormat output);

// Of an end of all mounts: a line each, with who uses what is mounted still or was taken from him.
std::string UnmountAllText(const v1::UnmountAllResponse& done, const v1::ListHoldersResponse& users);

// {"results": [{"mount_point", "reference", "error", "used_still"}]}; "error" is null where it is unmounted.
std::string UnmountAllJson(const v1::UnmountAllResponse& done);

}  // namespace sluice::cli
