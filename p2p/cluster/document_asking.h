#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/executor.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/registry/pull_rights.h"

namespace sluice::p2p {

// One document that a mount needs, asked of members one after the other. A mount waits for it, so the next is
// asked beside one that says nothing, long before that counts as silent. A large one its members give to few
// at once: they name others that have got it, these are asked first, and then the same member again; so a
// thousand mounts cost its home a few copies, and the others come from each other.
//
// Thread-safe; lives by its requests, and while it waits to come again, until it is over.
class DocumentAsking : public std::enable_shared_from_this<DocumentAsking> {
 public:
  // All outlive what is asked.
  struct Parts {
    const Clock& clock;
    Executor& io;  // where answers are looked at
    Members& members;
    MemberHealth& health;
    PeerClient& client;
    std::function<void(const std::string&)> warn;
    // What homes may show for this node; null: members are not proven.
    PullTokens* tokens = nullptr;
    // Beside a member that has said nothing for so long the next one is asked.
    static constexpr Duration kLateAfter = std::chrono::milliseconds(500);
    Duration late_after = kLateAfter;
  };
  enum class Of {
    // They ask the registry in this order. One that answers that it is not to be had knows as well as the
    // next
    // would; and who is only silent has a registry asked in vain: it is waited for.
    kHomes,
    kHolders,  // what they have; who says nothing is not waited for when nobody else is left
  };
  // Whether an answer is what was asked for: else DataLoss, or NotFound (of no use, and no fault).
  using Check = std::function<absl::Status(const PeerClient::Answer&)>;
  struct Wanted {
    std::string path;
    uint64_t bytes_max = 0;
    Of of = Of::kHolders;
    Duration patience{};  // with each home that says that it is at it; with all holders together
    Check check = nullptr;
    bool is_spread = false;                 // members give it to few at once
    std::optional<BlobOrigin> origin = {};  // whose tokens homes may be shown; none: no token
    std::string token = {};                 // another node's, which is shown instead
  };
  // Errors: NotFound (nobody gave it), Unavailable (no home answered, though there are some), Cancelled (the
  // client is stopped). Called exactly once.
  using Done = absl::AnyInvocable<void(absl::StatusOr<PeerClient::Answer>) &&>;

  static void Ask(Parts parts, std::vector<Member> members, Wanted wanted, Done done);

 private:
  // Who is to be asked, or was.
  struct Candidate {
    Member member;
    bool is_helper = false;  // another has named it
    Instant not_before{};
    int refusals = 0;  // of a busy one
    // Of the last question.
    std::optional<Instant> asked = {};
    bool heard = false;
    bool answered = false;
    bool noted = false;  // as a failure
  };

  DocumentAsking(Parts parts, std::vector<Member> members, Wanted wanted, Done done);
  void Step();
  bool IsAnyHope(Instant now) const;
  bool IsAnyAsked() const;
  std::optional<size_t> TakeNext(Instant now, Instant* look_again);
  void Put(size_t index);
  void WaitUntil(Instant when);
  void LookAgainAt(Instant when);
  void Heard(size_t index);
  void Answered(size_t index, absl::StatusOr<PeerClient::Answer> answer);
  void Failed(size_t index, absl::Status why);
  bool IsHome(size_t index) const { return wanted_.of == Of::kHomes && !candidates_[index].is_helper; }
  bool MayRenewToken(const absl::Status& why);
  void RenewToken(size_t index);
  void PutOff(size_t index, const PeerClient::Busy& busy);
  void NoteTried(const std::string& helper);
  void Note(const Member& member, bool is_home, const absl::Status& why) const;
  void Finish(absl::StatusOr<PeerClient::Answer> result);
  absl::Status NotGiven() const;

  const Parts parts_;
  const Wanted wanted_;
  const Instant until_;
  const Instant busy_until_;  // so long those that are only busy are asked again

  mutable std::mutex mutex_;  // guards what follows
  Done done_;                 // null: it is over
  std::vector<Candidate> candidates_;
  std::vector<size_t> queue_;       // of candidates to be asked, the next one last
  std::vector<std::string> tried_;  // helpers that were of no use
  std::vector<std::string> named_;  // helpers, since a member was asked that is none
  std::string token_;               // that is shown
  bool renewed_ = false;
};

}  // namespace sluice::p2p
