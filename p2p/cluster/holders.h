#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_set.h"
#include "node/executor.h"
#include "p2p/cluster/announcements.h"
#include "p2p/cluster/holder_table.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"

namespace sluice::p2p {

// One that is said to have a blob, or some of it.
struct BlobHolder {
  std::string name;
  std::shared_ptr<const ChunkSet> present = nullptr;  // which chunks it has; null: nobody knows
};

// Who has what: tells the ranks of its blobs what this node has, keeps what others tell it, and asks the
// ranks of a blob who has it. Only names of members count, and only they are given. One that has some of a
// blob is asked which chunks when it has not got one.
//
// Thread-safe. Nothing blocks but Start and Stop.
class Holders {
 public:
  static constexpr Duration kTick = std::chrono::seconds(1);  // at most, between two looks at what is due
  static constexpr Duration kTimeout = std::chrono::seconds(2);
  static constexpr Duration kAnswerKept = std::chrono::seconds(30);
  static constexpr size_t kAnswersMax = 1024;
  static constexpr size_t kRanksAsked = 3;
  // By simulation of 1,000 nodes, where else a rank has 300 connections at the start.
  static constexpr Duration kFillWaitOfEach = std::chrono::microseconds(20);
  static constexpr Duration kFillWaitMax = std::chrono::milliseconds(50);
  // Which chunks a member has counts for so long, and is asked of so many at once, of one blob.
  static constexpr Duration kPresenceKept = std::chrono::seconds(5);
  static constexpr size_t kPresenceAskedMax = 4;

  struct Parts {
    const Clock& clock;
    Executor& io;
    Members& members;
    MemberHealth& health;
    PeerTransport& client;
    std::function<std::vector<HeldBlob>()> held;  // what others may be given; may block on a lock
    std::function<double()> random;               // in [0, 1); thread-safe
    // Which chunks of a blob others may be given; nothing: none. May block on a lock; null: none of any.
    std::function<std::optional<ChunkSet>(const BlobIdentity&)> present = nullptr;
  };
  // The parts outlive this, and what it has posted to the executor.
  explicit Holders(Parts parts);
  ~Holders();

  void Start();
  // No announcement is begun after it.
  void Stop();

  // What serves others. The answer to a GET of kHoldersPath; empty if the question is malformed.
  struct Question {
    std::string_view digest, size, chunk, root;
    std::string_view shares = {};  // "1": how much each has, too
  };
  std::string Answer(const Question& question);
  // The answer to a GET of kPresencePath. Errors: InvalidArgument (the question is malformed), NotFound (this
  // node has none of it that others may be given).
  absl::StatusOr<std::string> AnswerPresence(const Question& question);
  // The body of a POST. Errors: InvalidArgument (malformed, or not from a member), PermissionDenied (in
  // another member's name than the certificate has).
  absl::Status Take(std::string_view body, const ProvenNames& proven = {});

  // What the identity of a blob is; nothing where no root is known.
  static std::optional<BlobIdentity> IdentityOf(const Blob& blob);
  // Members that are said to have it, as they were known at most kAnswerKept ago; nothing if nobody was
  // asked.
  std::optional<std::vector<BlobHolder>> Known(const BlobIdentity& blob) const;
  // Asks the ranks of the blob, once however many wait. `done` is called when all have answered, or in
  // kTimeout; then Known knows. What only fills wait for is asked up to kFillWaitOfEach a member later, at
  // most kFillWaitMax: a rank is not asked by all homes in the same moment.
  void Ask(const BlobIdentity& blob, FetchClass fetch_class, absl::AnyInvocable<void() &&> done);
  // A reader waits now for what a fill was to ask.
  void Hurry(const BlobIdentity& blob);
  // How much of it each of the members has that are said to have most, and that answered when they were asked
  // last: by the ranks of the blob, and by what this node was told itself. Nothing if none of the ranks
  // answered, and this node is none. `done` is called exactly once, in kTimeout at the latest, also within
  // the call. Nothing is kept.
  using OnShares = absl::AnyInvocable<void(std::optional<std::vector<HolderShare>>) &&>;
  void AskShares(const BlobIdentity& blob, OnShares done);
  // A member that was said to have it has not got a chunk of it.
  void NoteLacks(const BlobIdentity& blob, const std::string& holder);

 private:
  struct Asking;
  struct Named {
    std::string name;
    bool whole = false;
    bool is_asked = false;  // which chunks it has
    std::shared_ptr<const ChunkSet> present = nullptr;
    Instant told{};  // that
  };
  struct Answers {
    std::vector<Named> holders;
    Instant asked{};
  };
  struct Shared;
  struct AskingShares;
  static std::vector<HolderShare> OwnShares(const std::shared_ptr<Shared>& shared, const MemberView& view,
                                            const BlobIdentity& blob);
  static bool IsSilent(const std::shared_ptr<Shared>& shared, const std::string& name);
  static void TakeShares(const std::shared_ptr<Shared>& shared, const std::shared_ptr<AskingShares>& asking,
                         const std::optional<std::vector<HolderShare>>& shares);
  static void Tick(const std::shared_ptr<Shared>& shared);
  static void Announce(const std::shared_ptr<Shared>& shared);
  static void Begin(const std::shared_ptr<Shared>& shared, const BlobIdentity& blob,
                    const std::shared_ptr<Asking>& asking);
  static void Answered(const std::shared_ptr<Shared>& shared, const BlobIdentity& blob,
                       const std::shared_ptr<Asking>& asking, const std::vector<HolderShare>& shares);
  static void TookPresence(const std::shared_ptr<Shared>& shared, const BlobIdentity& blob,
                           const std::string& holder, const absl::StatusOr<PeerTransport::Answer>& answer);

  const std::shared_ptr<Shared> shared_;
};

}  // namespace sluice::p2p
