#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/http/peer_connections.h"
#include "tests/sim/crowd/wire.h"

namespace sluice::sim {

// How a node asks others, in place of p2p::PeerClient and its HTTP client: with the same bounds, the same
// rule for kept connections and the same idea of silence, over virtual links. Dialling takes a round trip.
class SimTransport final : public p2p::PeerTransport {
 public:
  enum class Connection { kKept, kClosed };

  // Of the node with that number and name; the wire outlives it.
  SimTransport(Wire& wire, size_t node, std::string name);

  RequestId ReadChunk(const p2p::Member& member, const ChunkQuestion& question, OnData on_data,
                      OnSign on_sign, OnChunkDone on_done) override;
  void Cancel(RequestId id) override;
  void Raise(RequestId id, FetchClass fetch_class) override;
  void After(Duration delay, Task task) override;
  void Ask(const p2p::Member& member, const Question& question, OnAnswer on_answer) override;

  // The server's answers, as they come in.
  void Interim(const CallPtr& call);
  void FirstBytes(const CallPtr& call);
  void LastBytes(const CallPtr& call);
  void Ended(const CallPtr& call, ChunkOutcome outcome, Connection connection);

  // The server ends a connection that is kept.
  void DropKept(size_t server);

  // The node is no more: its servers find out when they have waited for long.
  void Vanish();

 private:
  PeerServer* ServerAt(size_t node) const;
  bool MayConnect(const Call& call);
  void StartQueued();
  void Begin(const CallPtr& call);
  // Whether a connection to it is free.
  bool IsKept(size_t server) const;
  // Returns how long it takes until a request is under way.
  Duration Connect(size_t server);
  void Release(size_t server, Connection connection);
  void Close(size_t server);
  // Returns whether there was one. A kept connection is not kept any more.
  bool TakeKept(size_t server);
  void CloseOneBeyond(size_t kept);
  void Sweep();
  void EndIfQuiet(const CallPtr& call);
  void Heard(Call& call);
  std::vector<size_t> SilentServers(Instant now) const;
  void Fail(const CallPtr& call, absl::Status status);

  Wire& wire_;
  const size_t node_;
  const std::string name_;
  Port& port_;
  const size_t kept_max_;
  RequestId next_id_ = 1;
  std::deque<CallPtr> queue_;
  std::map<RequestId, CallPtr> active_;
  absl::flat_hash_map<size_t, uint32_t> active_of_server_;
  absl::flat_hash_map<size_t, Instant> heard_of_server_;  // when something came of it last
  std::vector<size_t> idle_;  // servers of kept connections, the longest unused first
  bool sweeps_ = false;
  // By TLS.
  p2p::PeerConnections connections_;
  absl::flat_hash_map<size_t, std::vector<int>> sockets_;
  int next_socket_ = 0;
  Instant may_connect_ = Instant::max();  // when those that wait for a connection are looked at
};

}  // namespace sluice::sim
