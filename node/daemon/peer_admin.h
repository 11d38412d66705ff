#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "node/executor.h"
#include "p2p/cluster/dial_back.h"
#include "p2p/cluster/member_exchange.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"

namespace sluice {

// What the API says of the other nodes.
//
// Thread-safe; computes the homes of a blob; DialBack waits for other nodes.
class PeerAdmin final : public api::PeerBackend {
 public:
  // All outlive this. `health` alone is there on a node that was told of no others.
  struct Parts {
    const p2p::MemberHealth& health;
    const Clock& clock;
    const p2p::Members* members = nullptr;
    const p2p::MemberExchange* exchange = nullptr;
    p2p::DialBack* dial_back = nullptr;
  };
  explicit PeerAdmin(Parts parts) : parts_(parts) {}

  absl::StatusOr<api::PeersReport> ListPeers() override;
  absl::StatusOr<std::vector<api::DialFinding>> DialBack(Instant deadline) override;
  api::ClusterStatus Status() const;

 private:
  const Parts parts_;
};

}  // namespace sluice
