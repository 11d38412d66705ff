#pragma once

#include <string>
#include <vector>

#include "sluice/v1/admin.pb.h"
#include "sluice/v1/prefetch.pb.h"

// Answers for scripts: one JSON object and a newline. Field names are those of the messages in admin.proto
// and prefetch.proto (snake_case), numbers are numbers, and "served" is an object by source: {"local":
// {"reads", "bytes"}, ...}. Fields are only ever added.

namespace sluice::cli {

// The status, with "uptime_seconds" and an array "mounts".
std::string StatusJson(const v1::NodeStatus& status, const std::vector<v1::Mount>& mounts);
// {"cluster": {"configured", "cut_off", "cold_start"}, "self": a peer or null, "peers": [...]}; "state" is in
// lower case: "not_asked"; "age_seconds", "skipped_for_seconds" and "blame_age_seconds" are numbers, the last
// two null where there is none.
std::string PeersJson(const v1::ListPeersResponse& peers);
std::string MountJson(const v1::Mount& mount);
// {"drained", "hints_ended"}
std::string DrainJson(bool drained, uint32_t hints_ended);
// {"log_level"}
std::string LogLevelJson(v1::LogLevel level);
// {"mount_point"}
std::string UnmountJson(const std::string& mount_point);
// {"blobs": [...]}
std::string BlobListJson(const std::vector<v1::Blob>& blobs);
std::string BlobJson(const v1::Blob& blob);
// {"digest", "checked_bytes", "bad_chunks", "unprovable_chunks"}
std::string VerifyJson(const std::string& digest, const v1::VerifyBlobResponse& report);
// {"digest", "freed_bytes"}
std::string EvictJson(const std::string& digest, const v1::EvictBlobResponse& response);

// {"digest", "file", "bytes"}
std::string RecipeJson(const std::string& digest, const std::string& file, size_t bytes);
// {"hints": [...]}; "state" is in lower case: "fetching"; "error" is {"code", "message"} or null.
std::string HintListJson(const std::vector<v1::HintStatus>& hints);
// {"images": [...]}; "error" as above, "nodes" is an array of {"name", "present_bytes"}.
std::string LocalityJson(const std::vector<v1::ImageLocality>& images);

enum class Pinned { kNo, kYes };
// {"digest", "pinned"}
std::string PinJson(const std::string& digest, Pinned pinned);

}  // namespace sluice::cli
