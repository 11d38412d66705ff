#pragma once

#include "api/http/http_server.h"
#include "api/http/mirror_content.h"
#include "node/telemetry.h"

namespace sluice::api {

// The pull side of a registry, for container runtimes that have this node as a mirror:
//
//   GET, HEAD /v2/                                                 200
//   GET, HEAD /v2/<name>/manifests/<digest or tag>?ns=REGISTRY     200, 304, 400, 401, 403, 404, 503
//   GET, HEAD /v2/<name>/blobs/<digest>?ns=REGISTRY                200, 206, 304, 400, 401, 403, 404, 416,
//   503 GET, HEAD /v2/<name>/referrers/<digest>?ns=REGISTRY            200, 400, 401, 403, 404, 503
//
// In place of ns= a registry's name may stand before <name>, if it has a dot, as CRI-O's mirrors are written.
// With a 404 a runtime goes on to the next host. 401 has the registry's own challenge. Sources: OCI
// distribution specification, "Pull" and "Listing Referrers"; ns= as containerd's hosts.toml mirrors send it.
//
// What is referred to outlives the server that the routes are given to.
void AddMirrorRoutes(HttpRoutes& routes, MirrorContent& content, Telemetry& telemetry);

}  // namespace sluice::api
