#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/http_server.h"
#include "api/http/peer_blobs.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/peer_trust.h"

namespace sluice::api {

// A request waits no longer than this for its answer, whatever its asker says.
inline constexpr Duration kPeerDeadlineMax = std::chrono::seconds(50);
inline constexpr Duration kPeerDeadlineDefault = std::chrono::seconds(30);  // of one that says nothing
inline constexpr size_t kTriedMax = 16;  // names of which more than these are ignored

// Who asks, as it says itself, and which helpers were of no use to it; "" if it says nothing. Errors:
// InvalidArgument (malformed), PermissionDenied (its certificate has another name).
struct PeerAsker {
  std::string name;
  std::vector<std::string> tried;
};
absl::StatusOr<PeerAsker> ParseAsker(const HttpRequest& request);

// Reads a request for one chunk of the blob that its path names. nullopt if it is another kind: without
// Sluice-Role, or `present-only` without Sluice-Blob or for what is not within one chunk. Errors:
// InvalidArgument (malformed; what is asked of a home must be within one chunk), OutOfRange (a range that is
// not within the blob), PermissionDenied (the asker's certificate has another name). Source: PEERS.md, "A
// request".
absl::StatusOr<std::optional<PeerBlobRequest>> ParseChunkRequest(const HttpRequest& request,
                                                                 const BlobOrigin& origin,
                                                                 const Digest& digest, Instant now,
                                                                 PeerTrust trust = PeerTrust::kUnproven);

}  // namespace sluice::api
