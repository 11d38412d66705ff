#pragma once

#include <string>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "api/http/http_server.h"

namespace sluice::api {

// Port: dials other nodes that ask for it.
//
// Thread-safe; must not block.
class DialAnswers {
 public:
  virtual ~DialAnswers() = default;

  // The JSON for who asked with this row of its own, exactly once, on any thread. Errors: InvalidArgument,
  // ResourceExhausted, PermissionDenied (the row is of another than who asks).
  using Done = absl::AnyInvocable<void(absl::StatusOr<std::string>) &&>;
  virtual void Dial(std::string_view asker, const ProvenNames& proven, Done done) = 0;
};

// GET, HEAD /sluice/v1/dial: 200, 400, 403, 429. `answers` outlives the server that the route is given to;
// `node_id` is by what a node recognises itself.
void AddDialRoute(HttpRoutes& routes, DialAnswers& answers, std::string node_id);

}  // namespace sluice::api
