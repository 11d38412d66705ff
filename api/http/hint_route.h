#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "api/http/http_server.h"
#include "node/proven_names.h"

namespace sluice::api {

// Port: takes hints that other nodes pass on.
//
// Thread-safe; must not block.
class HintAnswers {
 public:
  virtual ~HintAnswers() = default;

  // The JSON of what became of it. Errors: InvalidArgument (malformed), PermissionDenied (not from a member,
  // or in another's name).
  virtual absl::StatusOr<std::string> Take(std::string_view body, const ProvenNames& proven) = 0;
};

// POST /sluice/v1/hints   200, 400, 403
//
// `answers` outlives the server that the route is given to; `node_id` is by what a node recognises itself.
void AddHintRoute(HttpRoutes& routes, HintAnswers& answers, std::string node_id);

}  // namespace sluice::api
