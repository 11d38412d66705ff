#pragma once

#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/http/http_server.h"
#include "node/digest.h"
#include "node/proven_names.h"

namespace sluice::api {

// Port: what this node knows of what starts of images touch.
//
// Thread-safe; must not block. `done` is called exactly once, on any thread.
class ProfileAnswers {
 public:
  virtual ~ProfileAnswers() = default;

  // The JSON of an image's profile. Errors: NotFound, whatever the reason.
  using OnProfile = absl::AnyInvocable<void(absl::StatusOr<std::string>) &&>;
  virtual void Give(const Digest& manifest, OnProfile done) = 0;
  // Takes a start that a member has recorded, as JSON. Errors: InvalidArgument (malformed, or not from a
  // member), PermissionDenied (in another's name), ResourceExhausted (too many at once), Unavailable.
  using OnTaken = absl::AnyInvocable<void(absl::Status) &&>;
  virtual void Take(std::string record, const ProvenNames& proven, OnTaken done) = 0;
};

// GET, HEAD /sluice/v1/profiles/<digest>   200, 400, 404
// POST      /sluice/v1/profiles            204, 400, 403, 503
//
// `answers` outlives the server that the routes are given to; `node_id` is by what a node recognises itself.
void AddProfileRoutes(HttpRoutes& routes, ProfileAnswers& answers, std::string node_id);

}  // namespace sluice::api
