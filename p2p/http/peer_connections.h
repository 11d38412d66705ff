#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "node/chunk_source.h"
#include "node/executor.h"

namespace sluice::p2p {

// The connections to other nodes by TLS, counted so that no more than a few new ones begin in a second: each
// costs both sides a signature (1.2 and 1.5 ms of processor, P-256), and a node that is asked by all others
// at once would do nothing else. Of N nodes of which each wants something of all others each has a connection
// to all after N / 50 s. After a while without any some more may begin at once, since what one waits for at
// the beginning of a fill holds up all who want it from this node. Requests that find a kept connection are
// not held up.
//
// Pure: the clock is handed in. Not thread-safe.
class PeerConnections {
 public:
  static constexpr int kBeginPerSecond = 50;
  static constexpr int kBeginAtOnce = 60;         // after 1.2 s without any
  static constexpr int kBeginAtOnceOfFills = 45;  // the rest is kept for demand

  // Whether a request to `to` may start now: a kept connection is free for it, or another may begin. It
  // counts as under way then, until End.
  bool Start(const std::string& to, FetchClass fetch_class, Instant now);
  void End(const std::string& to);

  // What became of the connections themselves.
  void Opened(int socket, const std::string& to, Instant now);
  void Closed(int socket);

  // When one of that class may begin, if nothing else does before.
  Instant NextBegin(FetchClass fetch_class) const;

 private:
  struct Counts {
    uint32_t under_way = 0;  // requests
    uint32_t open = 0;       // connections
    uint32_t granted = 0;    // of them, may begin and has not yet
  };
  void NoteBegun(Instant now);
  void ForgetUnused(const std::string& to);

  absl::flat_hash_map<std::string, Counts> counts_;
  absl::flat_hash_map<int, std::string> sockets_;
  Instant paid_until_{};  // when all that have begun would have, one at a time
};

}  // namespace sluice::p2p
