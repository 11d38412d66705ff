#pragma once

#include <memory>
#include <utility>

#include "api/http/fill_places.h"
#include "api/http/http_server.h"
#include "api/http/peer_response.h"
#include "api/http/whole_places.h"
#include "node/blob.h"
#include "node/blob_reader.h"
#include "node/chunk_store.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "node/peer_trust.h"
#include "node/telemetry.h"

namespace sluice::api {

// Gives other nodes what is here of a blob, if it was got from the repository that they name and is proven;
// what was not got as public to proven members alone. Nobody says that he waits for it: so it is sent as
// fills are. Of members that say their names few are sent a whole blob at once, and the others are told of
// them.
//
// Called on the server's thread; files are opened on the I/O pool.
class BlobRoute : public std::enable_shared_from_this<BlobRoute> {
 public:
  struct Parts {
    ChunkStore& store;
    BlobReader& reader;
    AccessLedger& ledger;
    Executor& io;
    Telemetry& telemetry;
    std::shared_ptr<const PeerAnswers> answers;
    std::shared_ptr<FillPlaces> places;  // who comes beyond is refused
    PeerTrust trust = PeerTrust::kUnproven;
    std::shared_ptr<WholePlaces> whole_places = nullptr;  // null: whole blobs are sent to all who ask
  };
  // What is referred to outlives it.
  explicit BlobRoute(Parts parts) : parts_(std::move(parts)) {}

  void OnBlob(const HttpRequest& request, const BlobOrigin& origin, const Digest& digest,
              HttpResponder responder);

 private:
  void SendBlob(Blob::Lease lease, ByteRange range, WholePlaces::Place place, HttpResponse response,
                HttpResponder responder);
  HttpResponse PartlyHere(const Blob& blob, ChunkSpan asked);

  const Parts parts_;
};

}  // namespace sluice::api
