#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "api/http/http_server.h"
#include "node/image_counters.h"

namespace sluice::api {

// Port: who wants to know what registries tell. Implemented by the daemon.
//
// Thread-safe; does not block.
class PushListener {
 public:
  virtual ~PushListener() = default;
  // What became of the events of one body.
  struct Heard {
    size_t hinted = 0;   // images that are brought in
    size_t ignored = 0;  // none that was pushed, or that this node may have
    size_t refused = 0;  // for which there is no room now
  };
  // The same event may come again. Errors: InvalidArgument (it can't be understood), which says why.
  virtual absl::StatusOr<Heard> Take(std::string_view body) = 0;
};

// For registries that tell what is pushed to them:
//
//   POST /registry/notifications                     200, 400, 401, 503
//
// with "Authorization: Bearer SECRET"; the body is what the listener takes. With a 503 the registry comes
// again. What is referred to outlives the server that the routes are given to. REQUIRES: !secret.empty()
void AddPushRoute(HttpRoutes& routes, std::string secret, PushListener& listener, ImageCounters& counters);

}  // namespace sluice::api
