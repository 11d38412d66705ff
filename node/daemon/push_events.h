#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"

namespace sluice {

// An image that somebody has pushed to a registry, as the registry tells.
struct PushedImage {
  std::string event;  // the same whenever the registry tells it
  BlobOrigin origin;
  Digest digest;  // of its manifest or index
};

inline constexpr size_t kPushEventsMax = 256;  // in one body

// What was pushed with a tag, of the events in the body: an envelope of the distribution registry
// (application/vnd.docker.distribution.events.v2+json, "Work with notifications"), or what Harbor's webhooks
// post (payload format Default, PUSH_ARTIFACT). Other events, and those that this does not understand, are
// left out: a registry repeats what is refused, and all that stands behind it. A manifest without a tag is a
// part of an image, or refers to one. Errors: InvalidArgument (no JSON, neither of them, more than
// kPushEventsMax).
struct PushEvents {
  std::vector<PushedImage> images;
  size_t left_out = 0;
};
absl::StatusOr<PushEvents> ParsePushEvents(std::string_view body);

}  // namespace sluice
