#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "api/http/peer_blobs.h"
#include "p2p/cluster/peer_client.h"
#include "tests/sim/crowd/links.h"
#include "tests/sim/crowd/virtual_loop.h"

namespace sluice::sim {

class PeerServer;
class SimTransport;

// What has crossed between nodes.
struct Traffic {
  uint64_t requests = 0;                                   // for chunks
  uint64_t served = 0, absent = 0, busy = 0, refused = 0;  // how they were answered
  uint64_t busy_alone = 0;                                 // and named nobody
  uint64_t busy_helpers = 0;                               // of those that were busy, who was asked as one
  uint64_t passed_on = 0;                                  // of those that were served, as they came
  uint64_t failed = 0;                                     // by silence
  uint64_t broken_off = 0;                                 // since what was passed on came no more
  uint64_t interims = 0;
  uint64_t dials = 0;          // connections that were made
  uint64_t control_bytes = 0;  // all but chunks: heads, refusals, announcements
  uint64_t chunk_bytes = 0;    // sent whole
};

// A node's side of the network.
struct Port {
  Port(VirtualLoop& loop, double bytes_per_second)
      : node(loop), up(bytes_per_second), down(bytes_per_second) {}

  VirtualLoop::Node node;
  Link up, down;
  uint32_t connections = 0, connections_max = 0;  // open, of either side's asking; kept ones too
  uint32_t accepted = 0;                          // of these, what others have asked for
  std::deque<SimTransport*> idle;                 // whose connections are kept, the longest unused first
  uint64_t asked = 0;                             // requests for chunks that it has made
  uint64_t sent = 0;                              // chunks, or begun to
  PeerServer* server = nullptr;
  // What brings the chunks that it passes on as they come.
  absl::flat_hash_map<ChunkIndex, std::weak_ptr<Transfer>> coming;
};

// What all nodes share. A node's number is its address.
struct Wire {
  static constexpr Duration kTrip = std::chrono::milliseconds(1);  // there and back between members
  static constexpr Duration kHalf = kTrip / 2;

  static p2p::HostPort AddressOf(size_t node) { return {"10.0.0.1", static_cast<uint16_t>(node + 1)}; }
  static size_t NodeAt(const p2p::HostPort& address) { return static_cast<size_t>(address.port - 1); }

  VirtualLoop loop;
  Links links{loop, loop.world()};
  std::vector<std::unique_ptr<Port>> ports;
  Traffic traffic;
  bool is_by_tls = false;
  uint64_t question_bytes = 0;  // of the head of a request for a chunk, but for the helpers that were tried

  void Later(Duration delay, Task task) { loop.world().PostAt(loop.Now() + delay, std::move(task)); }
  void Open(size_t client, size_t server) {
    ++ports[server]->accepted;
    for (const size_t node : {client, server}) {
      Port& port = *ports[node];
      port.connections_max = std::max(port.connections_max, ++port.connections);
    }
  }
  void Close(size_t client, size_t server) {
    --ports[server]->accepted;
    --ports[client]->connections;
    --ports[server]->connections;
  }
};

// One request for a chunk, from when it is asked until both sides are done with it.
struct Call {
  uint64_t id = 0;
  size_t client = 0, server = 0;
  SimTransport* asker = nullptr;
  ByteRange range;
  ChunkIndex chunk;  // that this is
  // The request as its server reads it.
  api::PeerBlobRequest request;
  p2p::PeerTransport::OnData on_data;
  p2p::PeerTransport::OnSign on_sign;
  p2p::PeerTransport::OnChunkDone on_done;  // null: the client is done with it
  Instant deadline;
  Instant began{};
  Duration quiet_max{};          // before its first byte; 0: as others
  bool is_untaken = false;       // nobody was there to take a connection for it
  std::optional<Instant> heard;  // when something came last
  Instant SilentSince() const { return heard.value_or(began); }
  // Of the server.
  bool is_help = false;  // it is asked for what it has
  bool is_fill = false;  // and counted as one that is being answered
  bool gone = false;     // nobody listens any more
  bool answered = false;
  Task give_up;
  std::optional<api::PeerBytes> bytes;
  bool is_whole = false;  // of what is passed on as it comes: it has come, and is right
  bool is_sent = false;   // but for its last byte, perhaps
  std::shared_ptr<p2p::PeerTransport::ChunkQuestion::Vouch> vouch;
  TransferPtr transfer;

  bool Flows() const { return transfer && transfer->on_sent && transfer->rate > 0; }
};
using CallPtr = std::shared_ptr<Call>;

}  // namespace sluice::sim
