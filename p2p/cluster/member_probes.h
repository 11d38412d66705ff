#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "node/executor.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"

namespace sluice::p2p {

// Asks members that failed whether they answer again, when they have been skipped for long enough: so no
// reader waits for one that is dead still, and one that is costs this node a question at a time. The
// questions go as fills do, a few at once over all members.
//
// Thread-safe. Held by a shared pointer. The parts outlive the callbacks of the client.
class MemberProbes final : public MemberProber, public std::enable_shared_from_this<MemberProbes> {
 public:
  static constexpr size_t kAtOnceMax = 16;
  static constexpr size_t kWaitingMax =
      10000;  // beyond, a member has to do without: MemberHealth::kUnprobedMax
  static constexpr Duration kTimeout = std::chrono::seconds(3);
  // After a question that this node itself could not send in time.
  static constexpr Duration kAgain = std::chrono::seconds(1);

  struct Parts {
    const Clock& clock;
    const Members& members;
    MemberHealth& health;
    PeerTransport& client;
  };
  explicit MemberProbes(Parts parts) : parts_(parts) {}

  void ProbeAfter(const std::string& member, Duration delay) override;

 private:
  void Due(const std::string& member);
  void AskNext();
  void Ask(const Member& member);
  void Ended(const std::string& member, const absl::Status& status);

  const Parts parts_;
  std::mutex mutex_;  // guards what follows
  std::deque<std::string> waiting_;
  absl::flat_hash_set<std::string> known_;  // those that wait, and those that are asked
  size_t asked_ = 0;
};

}  // namespace sluice::p2p
