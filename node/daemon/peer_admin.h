#pragma once

#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "p2p/cluster/member_exchange.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"

namespace sluice {

// What the API says of the other nodes.
//
// Thread-safe; computes the homes of a blob.
class PeerAdmin final : public api::PeerBackend {
 public:
  // All outlive this. `members` and `exchange` are null on a node that was told of no others.
  PeerAdmin(const p2p::Members* members, const p2p::MemberExchange* exchange, const p2p::MemberHealth& health)
      : members_(members), exchange_(exchange), health_(health) {}

  absl::StatusOr<api::PeersReport> ListPeers() override;
  api::ClusterStatus Status() const;

 private:
  const p2p::Members* const members_;
  const p2p::MemberExchange* const exchange_;
  const p2p::MemberHealth& health_;
};

}  // namespace sluice
