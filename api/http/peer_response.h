#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/http_server.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/peer_trust.h"
#include "node/telemetry.h"

namespace sluice::api {

// An error as registries word it. Source: OCI distribution specification, "Error Codes". `message` is ours:
// it is not escaped.
HttpResponse ErrorResponse(unsigned status, std::string_view code, std::string_view message);

// The 404 that doesn't say whether it is absent or not for who asks.
HttpResponse NotHere();

// Come again after that time, or ask those that are named. Source: PEERS.md, "A request".
HttpResponse ComeAgain(Duration retry, const std::vector<std::string>& helpers);

// What a node whose members are proven says of the content that it gives, or refuses: whether its repository
// gives it to everybody, and how long ago that was found out at the registry. Source: PEERS.md, "Public and
// private".
void SayPublic(HttpResponse& response, PeerTrust trust, bool is_public, Duration public_age = Duration());

// The token that an asker shows, if members are proven; else it is ignored. Empty: none. Errors:
// InvalidArgument, which doesn't quote it.
absl::StatusOr<std::string> ReadToken(const HttpRequest& request, PeerTrust trust);

// The ETag of what is named by its digest.
std::string EntityTag(const Digest& digest);

// Whether an If-None-Match names the tag. Source: RFC 9110 section 13.1.2 (weak comparison).
bool MatchesTag(std::string_view list, const std::string& tag);

// Answers other nodes: counts what they were answered, and says which node this is.
//
// Thread-safe.
class PeerAnswers {
 public:
  PeerAnswers(Telemetry& telemetry, std::string node_id)
      : telemetry_(telemetry), node_id_(std::move(node_id)) {}

  void Send(HttpResponse response, HttpResponder responder, PeerRole role = PeerRole::kPresentOnly) const;

 private:
  Telemetry& telemetry_;
  const std::string node_id_;  // of this process: by it a node recognises itself
};

}  // namespace sluice::api
