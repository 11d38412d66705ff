#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/source_directory.h"
#include "p2p/cluster/gated_source.h"
#include "p2p/cluster/holders.h"
#include "p2p/cluster/member_source.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/pace.h"
#include "p2p/cluster/ranks.h"

namespace sluice::p2p {

// Who can be asked for which chunks, as a member of a cluster: the home of each stripe, those that stand in
// for it, and the registry, which only the ranks of a stripe may ask, and others as a last resort; where none
// of the three can be asked the next by score does that for all, so that not each node does. What the
// members don't carry every node asks the registry for, as it would without them; a claim that is refuted
// within what a rank may ask for. Source: PEERS.md, "Who may ask the origin".
//
// Where members are in several zones, what has its home in another one is asked of one member of this zone
// first, who asks that home: so one copy crosses. It is chosen as homes are, among the zone's members, of
// those that are not skipped just now. By the right of its zone a member asks homes only, never another
// zone's home, and a home asks neither: no waits form a cycle.
//
// Offers and FillOrder are called on the core loop; everything else is thread-safe. Nothing blocks: homes are
// computed on the executor, and what needs them meanwhile waits for that. Only where a fill begins, and they
// take no more than a millisecond, they are computed at once.
class ClusterDirectory final : public SourceDirectory {
 public:
  struct Parts {
    const Clock& clock;
    Executor& io;
    Members& members;
    MemberHealth& health;
    PeerTransport& client;
    AccessLedger& ledger;
    MemberAccess::AwaitRecipe await_recipe;
    std::function<bool()> in_cold_start;
    std::function<double()> random;  // in [0, 1); thread-safe
    std::function<void(const std::string&)> warn;
    DownloadBudget& download;
    Holders& holders;
    ChunkSource& origin;
    ChunkSource& last_resort;
    ChunkBlame& blame;
    Unsealed unsealed = Unsealed::kFromRegistry;
    // As MemberAccess has them.
    PullTokens* tokens = nullptr;
    std::function<bool(const BlobOrigin&)> is_public = nullptr;
  };
  // The parts outlive the directory, and the directory what it has offered.
  explicit ClusterDirectory(Parts parts);
  ~ClusterDirectory() override;

  void Offers(const Blob& blob, ChunkSpan span, FetchClass fetch_class, Asker asker, const Grant& grant,
              std::vector<SourceOffer>* offers) override;
  void OnOffersChanged(absl::AnyInvocable<void(const Digest&)>) override {}
  std::vector<ChunkSpan> FillOrder(const Blob& blob, ChunkSpan span) override;
  bool IsInDoubt(const Blob& blob, ChunkIndex index) const override {
    return parts_.blame.IsInDoubt(blob, index);
  }

 private:
  class WaitSource;
  class PacedSource;
  struct MemberAsked {
    HostPort address;
    std::shared_ptr<ChunkSource> source;
  };
  // A blob's homes, and the view that they were computed from.
  struct Placed {
    std::shared_ptr<const MemberView> view;
    std::shared_ptr<const BlobHomes> homes;
    MemberIndex self = kNoMember;  // this node's index in the view
    // The same of before, if that is known; of before all changes that are young.
    std::shared_ptr<const BlobHomes> homes_before;
    MemberIndex self_before = kNoMember;
  };
  // That members don't carry a blob: all, or the only one that has refused it so far.
  struct NotCarried {
    Instant until{};
    std::string refused_by = {};  // empty: all
  };
  static constexpr size_t kPlacedMax = 256;
  static constexpr size_t kSourcesKept = 4096;
  static constexpr size_t kNotCarriedMax = 1024;
  static constexpr size_t kLacksMax = 4096;
  static constexpr size_t kUnnamedAsked = 2;  // during the cold start
  static constexpr size_t kHoldersAsked = 4;

  void AwaitHomes(const Blob& blob, std::function<void()> over);
  void AwaitColdStart(std::function<void()> over);
  bool IsCarried(const Blob& blob, Asker asker) const;
  void NoteNotCarried(const Blob& blob, Asker asker, const std::string& refused_by, Duration length);
  void NoteLacks(const Blob& blob, const std::string& member);
  bool Lacks(const Blob& blob, const std::string& member) const;
  const Placed* Place(const Blob& blob, const std::shared_ptr<const MemberView>& view);
  bool IsCutOff();
  // Chunks of one stripe, for whom they are wanted, and who is said to have the blob; nothing: nobody was
  // asked yet.
  struct Part {
    const Blob& blob;
    ChunkSpan has;
    Asker asker;
    const std::optional<std::vector<BlobHolder>>& holders;
    size_t ranks_asked;  // for what they have
    // Who of this zone fetches it for all of the zone; kNoMember: this node does, or nobody has to.
    MemberIndex zone_home;
    // Who does where no rank of the stripe can be asked; kNoMember: one can.
    MemberIndex substitute;
  };
  MemberIndex FetchesForZone(const Placed& placed, uint64_t stripe, Instant now) const;
  bool IsElsewhere(const Placed& placed, MemberIndex member) const;
  MemberIndex SubstituteOf(const Placed& placed, const StripeRanks& ranks, Instant now) const;
  bool IsNewRank(const Placed& placed, uint64_t stripe) const;
  size_t RanksAsked(const Placed& placed, uint64_t stripe, size_t own,
                    const std::optional<std::vector<BlobHolder>>& holders) const;
  void OfferRanks(const Placed& placed, const StripeRanks& ranks, size_t own, const Part& part,
                  std::vector<SourceOffer>* offers);
  void OfferHolders(const Placed& placed, const StripeRanks& ranks, const Part& part, SourceRank as,
                    std::vector<SourceOffer>* offers);
  void OfferColdStart(const MemberView& view, ChunkSpan has, std::vector<SourceOffer>* offers);
  void OfferMember(const Member& member, PeerRole role, SourceRank rank, ChunkSpan has,
                   std::vector<SourceOffer>* offers);
  void OfferOrigin(SourceRank rank, ChunkSpan has, std::vector<SourceOffer>* offers) const;
  std::shared_ptr<ChunkSource> SourceOf(const Member& member, PeerRole role, SourceId id);

  const Parts parts_;
  const MemberAccess access_;
  HomesCache homes_;
  const std::shared_ptr<ChunkSource> homes_known_, cold_start_over_, holders_known_;

  // Of the core loop.
  absl::flat_hash_map<BlobKey, Placed> placed_;
  absl::flat_hash_map<SourceId, MemberAsked> sources_;
  bool cut_off_ = false;
  Instant cut_off_until_{};  // when it is to be looked at again

  mutable std::mutex mutex_;
  // Guarded by mutex_; the second: until when.
  absl::flat_hash_map<std::pair<BlobKey, Asker>, NotCarried> not_carried_;
  absl::flat_hash_map<std::pair<BlobKey, std::string>, Instant> lacks_;
};

}  // namespace sluice::p2p
