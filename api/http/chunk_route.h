#pragma once

#include <memory>
#include <utility>

#include "api/http/fill_places.h"
#include "api/http/http_server.h"
#include "api/http/peer_blobs.h"
#include "api/http/peer_response.h"
#include "node/blob_reader.h"
#include "node/executor.h"
#include "node/peer_trust.h"
#include "node/telemetry.h"

namespace sluice::api {

// Gives other nodes chunks, as a home or of what is here, or is coming: 206, with Sluice-Verified if they are
// proven, else with Sluice-Passed-On if they came from other members, and Sluice-Coming if they may break
// off; 102 at once and again while a home waits for the origin; 503 with Sluice-Retry-Ms and Sluice-Helpers;
// 403 (ask-yourself), 404, 409, 507. The 102s and 503s of one whose origin asks for patience say so, in
// Sluice-Origin.
//
// Called on the server's thread; files are opened on the I/O pool.
class ChunkRoute : public std::enable_shared_from_this<ChunkRoute> {
 public:
  // So often a home that waits says that it is there.
  static constexpr Duration kInterimEvery = std::chrono::milliseconds(500);
  struct Parts {
    PeerBlobs& blobs;
    BlobReader& reader;
    const Clock& clock;
    Executor& io;
    Telemetry& telemetry;
    std::shared_ptr<const PeerAnswers> answers;
    std::shared_ptr<FillPlaces> places;  // fills beyond are refused
    PeerTrust trust = PeerTrust::kUnproven;
  };
  // What is referred to outlives it.
  explicit ChunkRoute(Parts parts) : parts_(std::move(parts)) {}

  void OnChunk(PeerBlobRequest request, HttpResponder responder);

 private:
  class Reply;

  void OnAnswer(const std::shared_ptr<Reply>& reply, PeerBlobAnswer answer);
  void SendBytes(const std::shared_ptr<Reply>& reply, PeerBytes bytes);
  void SendFlow(const std::shared_ptr<Reply>& reply, PeerBytes bytes);
  HttpResponse ResponseWith(const PeerBytes& bytes, ByteRange range) const;

  const Parts parts_;
};

}  // namespace sluice::api
