#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/http/document_route.h"
#include "api/http/http_server.h"
#include "api/http/peer_blobs.h"
#include "node/blob_reader.h"
#include "node/chunk_store.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "node/peer_trust.h"
#include "node/proven_names.h"
#include "node/telemetry.h"

namespace sluice::api {

// Port: what this node knows of the cluster's members.
//
// Thread-safe; must not block.
class MemberAnswers {
 public:
  virtual ~MemberAnswers() = default;

  // The JSON for who asked, with these parameters and this row of its own; each may be empty or malformed.
  // Errors: PermissionDenied (the row is of another than who asks).
  virtual absl::StatusOr<std::string> Answer(std::string_view since, std::string_view old,
                                             std::string_view asker, const ProvenNames& proven) = 0;
};

// Port: what this node knows of who has which blobs.
//
// Thread-safe; must not block.
class HolderAnswers {
 public:
  virtual ~HolderAnswers() = default;

  // The parameters of a question.
  struct Question {
    std::string_view digest, size, chunk, root;  // which blob is meant
    std::string_view shares;                     // "1": how much each has, too
  };
  // The JSON that names the holders of a blob; empty if what says which is malformed.
  virtual std::string Answer(const Question& question) = 0;
  // The JSON that tells which chunks of it this node has. Errors: InvalidArgument (malformed), NotFound.
  virtual absl::StatusOr<std::string> Presence(const Question& question) = 0;
  // Takes what a member announces, as JSON. Errors: InvalidArgument (malformed, or not from a member),
  // PermissionDenied (in another's name).
  virtual absl::Status Take(std::string_view announcement, const ProvenNames& proven) = 0;
};

struct PeerRoutesParts {
  ChunkStore& store;
  BlobReader& reader;
  AccessLedger& ledger;
  PeerDocuments& documents;
  Executor& io;  // opens files, reads documents
  Telemetry& telemetry;
  const Clock& clock;
  MemberAnswers* members;  // null: the route is not there
  HolderAnswers* holders;  // the same
  PeerBlobs* blobs;        // null: what is here is all that is given, whatever role is asked for
  std::string node_id;     // of this process: by it a node recognises itself
  PeerTrust trust = PeerTrust::kUnproven;  // whether whoever connects has shown that it is a member
  // Requests of fills, and of whole blobs, that are answered at once; beyond, 503. What the listener has more
  // connections is kept for readers and for what nodes ask each other beside blobs.
  int fills_max = 768;
  std::shared_ptr<WholePlaces> whole_places = nullptr;  // null: whole blobs are sent to all who ask
};

// What this node gives to other nodes. Proven members get what is not public, too; Sluice-Public says which
// it is, and Sluice-Token is by what a registry is asked for them. Without a role it is only what is here,
// and what it got from that very repository as public and has proven; all else is the same 404, so that
// nobody learns what is cached. Who asks for one chunk with Sluice-Role and Sluice-Blob is answered as
// ChunkRoute says.
//
//   GET, HEAD /v2/                                          200
//   GET, HEAD /v2/<name>/blobs/<digest>?ns=REGISTRY         200, 206, 304, 400, 403, 404, 409, 416, 503
//   GET, HEAD /v2/<name>/manifests/<digest>?ns=REGISTRY     200, 400, 404 (a tag is never answered)
//
// and with Sluice-Role: home what the registry has, which this node asks for it once for all who want it:
//
//   GET, HEAD /v2/<name>/manifests/<digest or tag>?ns=REGISTRY     200, 400, 403 (ask-yourself), 404, 503
//   GET, HEAD /v2/<name>/referrers/<digest>?ns=REGISTRY            the same
//   GET, HEAD /v2/<name>/blobs/<digest>?ns=REGISTRY&part=whole     the same
//   GET, HEAD /v2/<name>/blobs/<digest>?ns=REGISTRY&part=table
//                 &at=OFFSET:SIZE:sha256:HEX&size=STORED           the same
//
// Of who says his name with Sluice-From a whole blob goes to few at once. The others get 503, with
// Sluice-Retry-Ms and Sluice-Helpers: these they ask for the same without the role, and are given what those
// got a moment ago:
//
//   GET, HEAD /v2/<name>/blobs/<digest>?ns=REGISTRY&part=whole     200, 400, 404, 503
//
//   GET, HEAD /sluice/v1/token?ns=REGISTRY&name=REPOSITORY         as for a home, without a role: a
//   stranger's
//
//   GET, HEAD /sluice/v1/recipes/<digest>?root=DIGEST       200, 400, 404
//   GET, HEAD /sluice/v1/members?since=HASHES&old=BUCKETS   200, 403
//   GET, HEAD /sluice/v1/holders?digest=&size=&chunk=&root=[&shares=1] 200, 400
//   POST      /sluice/v1/holders                            204, 400, 403
//   GET, HEAD /sluice/v1/presence/<digest>?size=&chunk=&root=  200, 400, 404
//
// Where its certificate says who asks, it must speak for no other: 403.
//
// A range of which a part is absent is a 404 whose Sluice-Present names those parts of it that are present,
// as a Range header would. Sources: OCI distribution specification, "Pull"; RFC 9110 sections 13 to 15.
//
// The parts outlive the server that the routes are given to.
void AddPeerRoutes(HttpRoutes& routes, PeerRoutesParts parts);

}  // namespace sluice::api
