#pragma once

#include <string>

#include "sluice/v1/admin.pb.h"

// What `status IMAGE --why` answers. The text's layout may change; JSON fields are only ever added.

namespace sluice::cli {

std::string StartReportText(const v1::GetStartReportsResponse& starts);

// {"starts": [{"reference", "manifest_digest", "mount_point", "mounted_after_seconds", "resolve_seconds",
// "resolve_round_trips", "bootstrap_seconds", "blobs_seconds", "recipes_seconds", "recipe_round_trips",
// "mounting_seconds", "watched_seconds", "over", "waiting_seconds", "waited": {"local": {"reads", "bytes",
// "waited_seconds", "queued_seconds", "answer_seconds", "wire_seconds", "verified_seconds", "stored_seconds",
// "foreseen"}, "peer", "origin"}, "failed", "touched_bytes": {"here", "profile", "readahead", "hint", "fill",
// "other", "waited", "late"}, "sees_present"}], "unknown": [mount points]}
std::string StartReportJson(const v1::GetStartReportsResponse& starts);

}  // namespace sluice::cli
