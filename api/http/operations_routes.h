#pragma once

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "api/http/http_server.h"
#include "api/http/metrics.h"

namespace sluice::api {

// Each OK, or why not. Called on the HTTP server's thread: must not block.
struct HealthChecks {
  absl::AnyInvocable<absl::Status() const> alive;  // else it helps to start the node anew
  absl::AnyInvocable<absl::Status() const> ready;  // the node can serve
};

// Adds what operators and probes ask for: /metrics, /livez and /readyz (200, or 503 with the reason).
// `metrics` outlives the server.
void AddOperationsRoutes(HttpRoutes& routes, const Metrics& metrics, HealthChecks checks);

}  // namespace sluice::api
