#pragma once

#include <string>

#include "sluice/v1/admin.pb.h"

// What starts of an image read, as an answer. The text's layout may change; JSON fields are only ever added.

namespace sluice::cli {

// Of how many starts it is, and how much they touch.
std::string ProfileSummary(const v1::ImageProfile& profile);
// That, and what they touch.
std::string ProfileText(const v1::ImageProfile& profile);

// {"reference", "manifest_digest", "start_count", "public", "touched_bytes", "blobs": [{"index", "digest",
// "size_bytes", "touched_bytes", "spans": [{"first_chunk", "chunk_count", "offset_bytes", "size_bytes",
// "after_seconds", "weight"}]}]}
std::string ProfileJson(const v1::ImageProfile& profile);

}  // namespace sluice::cli
