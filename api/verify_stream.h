#pragma once

#include <atomic>
#include <string>

#include "api/admin_backend.h"
#include "api/call_pool.h"
#include "node/executor.h"

namespace grpc {
class CallbackServerContext;
template <class Response>
class ServerWriteReactor;
}  // namespace grpc
namespace sluice::v1 {
class VerifyBlobResponse;
}

namespace sluice::api {

// The VerifyBlob streams of a server: each is the backend's blocking call on a pool, and messages of how far
// it is. A client that reads slowly misses states in between, never the last one. The call into the backend
// ends soon after its client has gone.
//
// Thread-safe.
class VerifyStreams {
 public:
  // The parts outlive this, and this outlives the streams. `interval`: between two messages of one, at least.
  VerifyStreams(BlobBackend& blobs, CallPool& pool, Duration interval)
      : blobs_(blobs), pool_(pool), interval_(interval) {}

  // Owns itself until gRPC is done with it. A malformed digest and a full pool are errors of the stream.
  grpc::ServerWriteReactor<v1::VerifyBlobResponse>* Begin(grpc::CallbackServerContext& context,
                                                          const std::string& digest_field);
  // Ends all soon with Unavailable, and any that comes later.
  void End() { ending_ = true; }

 private:
  class Stream;

  BlobBackend& blobs_;
  CallPool& pool_;
  const Duration interval_;
  std::atomic<bool> ending_{false};
};

}  // namespace sluice::api
