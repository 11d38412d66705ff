#pragma once

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "api/http/http_server.h"
#include "api/http/metrics.h"

namespace sluice::api {

// OK when the node can serve; else why not. Called on the HTTP server's thread: must not block.
using ReadinessCheck = absl::AnyInvocable<absl::Status() const>;

// Adds what operators and probes ask for: /metrics, /livez (200 as long as the process can answer) and
// /readyz (200, or 503 with the reason). `metrics` outlives the server.
void AddOperationsRoutes(HttpRoutes& routes, const Metrics& metrics, ReadinessCheck ready);

}  // namespace sluice::api
