#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/executor.h"
#include "p2p/cluster/host_port.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"

namespace sluice::p2p {

// Whether others reach a node where it says that it is: it asks a member to dial it there. GET kDialPath,
// with a row of the asker in the header Sluice-Member that has the one address; the answer is {"reached":
// BOOL}.
//
// Who asks can make a node connect to an address and learns whether the asker itself answers there, no more:
// one dial at a time, four at first and then one a second, and none to loopback unless this node is itself
// reached there.
//
// Thread-safe. The parts outlive this; the client is stopped before this ends.
class DialBack {
 public:
  static constexpr std::string_view kDialPath = "/sluice/v1/dial";
  static constexpr Duration kDialTimeout = std::chrono::seconds(1);  // less than what counts as silence
  static constexpr Duration kBetweenDials = std::chrono::seconds(1);
  static constexpr int kBurst = 4;  // a node may have several addresses
  static constexpr size_t kMembersAsked = 2;
  static constexpr size_t kTriesMax =
      4;  // of an address: a member may be busy, or too old to know the question

  struct Parts {
    const Clock& clock;
    Members& members;
    PeerClient& client;
  };
  explicit DialBack(Parts parts) : parts_(parts) {}

  // Answers another node's question; `asker` is its row. Errors: InvalidArgument (no row with one address, or
  // one that may not be dialled), PermissionDenied (its certificate has another name), ResourceExhausted
  // (another dial is under way or has just been).
  using Done = absl::AnyInvocable<void(absl::StatusOr<std::string>) &&>;
  void Answer(std::string_view asker, const ProvenNames& proven, Done done);

  enum class Outcome { kReached, kNotReached, kNotTried };
  struct Finding {
    HostPort address;
    std::string member;  // that was asked
    Outcome outcome = Outcome::kNotTried;
    std::string why;  // it was not tried
  };
  // In [0, bound).
  using Random = std::function<size_t(size_t bound)>;
  // Asks random members to dial this node at each address that it tells, or, if it tells none, at each at
  // which it has met itself, until two have tried each. Nothing if there is no address or no member. Blocks.
  std::vector<Finding> Check(const Random& random, Instant deadline);

 private:
  Finding AskOne(const Member& member, const MemberRow& row, Duration timeout);

  const Parts parts_;
  std::mutex mutex_;
  // Guarded by mutex_.
  bool dialling_ = false;
  Instant next_{};  // when a dial would be in time, if there were no burst
};

}  // namespace sluice::p2p
