#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/proven_names.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/cluster/profile_codec.h"

namespace sluice::p2p {

// Asks the ranks of an image's manifest what starts of it touch, and tells them of new ones. Advice: who does
// not answer is not blamed, and an answer that makes no sense is none.
//
// Thread-safe; does not block.
class ProfileExchange {
 public:
  static constexpr size_t kRanksAsked = 3;
  // A start that has begun waits for its bytes, not for advice.
  static constexpr Duration kTimeout = std::chrono::seconds(1);
  // From when the first has answered others are waited for so long: where a profile has come, and where none
  // has, for then what comes instead is worse.
  static constexpr Duration kOthersTimeout = std::chrono::milliseconds(50);
  static constexpr Duration kOthersTimeoutWithout = std::chrono::milliseconds(300);
  static constexpr Duration kSendTimeout = std::chrono::seconds(5);

  struct Parts {
    const Clock& clock;
    Members& members;
    const MemberHealth& health;
    PeerTransport& client;
  };
  // The parts outlive this and what it asks.
  explicit ProfileExchange(Parts parts) : parts_(std::move(parts)) {}

  // That of most starts among those that the ranks have; nothing if none has one. One that is silent is not
  // waited for where others have answered. Called once, on the client's thread, or at once where there are no
  // others.
  using OnFound = absl::AnyInvocable<void(std::optional<KeptProfile>) &&>;
  void Fetch(const Digest& manifest, OnFound on_found) const;

  void Send(const StartRecord& record) const;

  // What another node sends here. Errors: InvalidArgument (malformed, or not from a member), PermissionDenied
  // (in another member's name than the certificate has).
  absl::StatusOr<StartRecord> Accept(std::string_view text, const ProvenNames& proven) const;

 private:
  const Parts parts_;
};

}  // namespace sluice::p2p
