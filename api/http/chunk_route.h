#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "api/http/http_server.h"
#include "api/http/peer_blobs.h"
#include "api/http/peer_response.h"
#include "node/blob_reader.h"
#include "node/executor.h"
#include "node/telemetry.h"

namespace sluice::api {

// Gives other nodes chunks, as a home or of what is here: 206, with Sluice-Verified if they are proven, else
// with Sluice-Passed-On if they came from other members; 102 at once and again while a home waits for
// the origin; 503 with Sluice-Retry-Ms and Sluice-Helpers; 403 (ask-yourself), 404, 409.
//
// Called on the server's thread; files are opened on the I/O pool.
class ChunkRoute : public std::enable_shared_from_this<ChunkRoute> {
 public:
  // So often a home that waits says that it is there.
  static constexpr Duration kInterimEvery = std::chrono::milliseconds(500);
  // Requests of the class fill that are being answered at once; beyond, they are refused. The rest of the
  // listener's connections is kept for demand.
  static constexpr int kFillsMax = 768;

  struct Parts {
    PeerBlobs& blobs;
    BlobReader& reader;
    const Clock& clock;
    Executor& io;
    Telemetry& telemetry;
    std::shared_ptr<const PeerAnswers> answers;
  };
  // What is referred to outlives it.
  explicit ChunkRoute(Parts parts) : parts_(std::move(parts)) {}

  void OnChunk(PeerBlobRequest request, HttpResponder responder);

 private:
  class Reply;
  class FillPlace;

  void OnAnswer(const std::shared_ptr<Reply>& reply, PeerBlobAnswer answer);
  void SendBytes(const std::shared_ptr<Reply>& reply, PeerBytes bytes);

  const Parts parts_;
  std::atomic<int> fills_{0};  // being answered
};

}  // namespace sluice::api
