#pragma once

#include <memory>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "node/daemon/home_blobs.h"
#include "p2p/cluster/holders.h"
#include "tests/sim/crowd/wire.h"

namespace sluice::sim {

// How a node answers others, in place of api/http's server and chunk_route: by the same rules, over virtual
// links.
class PeerServer {
 public:
  // All outlive it.
  PeerServer(Wire& wire, Port& port, HomeBlobs& home, p2p::Holders& holders)
      : wire_(wire), port_(port), home_(home), holders_(holders) {}

  // A request has come.
  void Arrive(const CallPtr& call);
  // Its asker has gone.
  void Gone(const CallPtr& call);
  // Lets go of all that it answers, without a word.
  void End();
  // Answers a GET or a POST of who has what.
  std::string Document(const p2p::PeerTransport::Question& question);

 private:
  void SayWaiting(const CallPtr& call);
  void Answer(const CallPtr& call, api::PeerBlobAnswer answer);
  void Refuse(const CallPtr& call, const api::PeerRefusal& refusal);
  void SendBytes(const CallPtr& call, api::PeerBytes bytes);
  void CameWhole(const CallPtr& call);
  void ComesNoMore(const CallPtr& call);
  void Sent(const CallPtr& call);
  void Over(const CallPtr& call);

  Wire& wire_;
  Port& port_;
  HomeBlobs& home_;
  p2p::Holders& holders_;
  int fills_ = 0;  // being answered
  absl::flat_hash_set<CallPtr> calls_;
};

}  // namespace sluice::sim
