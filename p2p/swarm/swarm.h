#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "node/blob.h"
#include "node/blob_reader.h"
#include "node/bulk_lane.h"
#include "node/chunk_sink.h"
#include "node/chunk_store.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/recipe_store.h"
#include "node/telemetry.h"
#include "p2p/recipe/leaf_cache.h"

namespace sluice::p2p {

struct SwarmOptions {
  std::string
      listen_address;  // an IP literal; outgoing connections come from it too, unless it is a wildcard
  uint16_t port = 0;   // the same on all members
  // Beyond it the one used longest ago leaves. One that is being filled stays; if all are, a blob that is
  // filled next is not shared.
  uint32_t torrents_max = 64;
};

// The bulk lane between members: blobs with a bound recipe that may be shared are BitTorrent v2 torrents (BEP
// 52) while they are filled, and afterwards as long as there is room. Private, over TCP, of members only.
// What peers send is held against the recipe here before libtorrent or the store hears of it; what other
// lanes bring is announced as it is committed.
//
// Holds no Blob, and no lease, of what it only gives to others. Threads of its own: libtorrent's, two that
// hash and read, one that adds, removes and watches torrents.
class Swarm final : public BulkLane {
 public:
  // All outlive the swarm.
  struct Parts {
    const Clock& clock;
    ChunkStore& store;
    BlobReader& reader;
    RecipeStore& recipes;
    LeafCache& leaves;  // the one that the verifier fills
    Telemetry& telemetry;
    // Whether a blob is public, so that every member may have it. Asked each time that the blob is filled or
    // offered, on a thread of the swarm's; may block.
    std::function<bool(const Blob&)> may_share;
    std::function<void(const std::string&)> warn;  // for the log; on a thread of the swarm's
  };

  Swarm(Parts parts, SwarmOptions options);
  ~Swarm() override;  // as Stop
  Swarm(const Swarm&) = delete;
  Swarm& operator=(const Swarm&) = delete;

  // Opens the port. `sink` must outlive the swarm's Stop. Once only. Errors: InvalidArgument (the address or
  // the port), AlreadyExists (somebody listens there), Unavailable (it can't be opened), FailedPrecondition
  // (it was started before).
  absl::Status Start(ChunkSink& sink);
  // Closes all connections and ends the threads, within a second or so; what peers had sent and is not stored
  // is lost. Idempotent. Later calls of the others do nothing.
  void Stop();

  // The addresses, as IP literals, of all other members. They alone are connected to or let in, from now on;
  // what is no IP literal is left out. Any thread.
  void SetPeers(const std::vector<std::string>& addresses);
  // Offers others what is present of the blob, now and later. Any thread.
  void Seed(const std::shared_ptr<Blob>& blob);
  // The blob's chunks are going away (eviction, revocation): from now on no byte of it is given to anybody,
  // and its torrent leaves. Any thread; returns at once.
  void Forget(const Blob& blob);

  // BulkLane: on the core loop, never block.
  void Join(const std::shared_ptr<Blob>& blob) override;
  void Leave(const Blob& blob) override;
  bool Carries(const Blob& blob, ChunkIndex index) override;
  void Committed(const std::shared_ptr<Blob>& blob, ChunkIndex index) override;

 private:
  class Core;
  const std::unique_ptr<Core> core_;
};

}  // namespace sluice::p2p
