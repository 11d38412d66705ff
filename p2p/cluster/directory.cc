#include "p2p/cluster/directory.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

constexpr SourceId kOrigin{1}, kLastResort{2}, kHomesKnown{3}, kColdStartOver{4}, kHoldersKnown{5};
// How often it is looked whether what is waited for has come.
constexpr Duration kLookInterval = std::chrono::milliseconds(25);
constexpr Duration kCutOffKept = std::chrono::seconds(1);
// Stripes times members, for which homes are computed where a fill begins: a millisecond.
constexpr size_t kComputedAtOnce = 1 << 18;
// What a fill asks of one home before it turns to the next.
constexpr uint32_t kPartBytes = 256 << 10;
// So many of its own parts a node fetches before those of others that are due at the same time: so the
// registry goes on sending while what came last is passed on.
constexpr size_t kOwnPartsAhead = 2;
// Who lacks one chunk of a blob lacks the next, probably.
constexpr Duration kLacksKept = std::chrono::seconds(1);
// So long after members came or went others may have what a new rank is asked for.
constexpr Duration kRankIsNew = std::chrono::seconds(10);

// A member in one role. Members' numbers begin at 1, so that no number is one of the above.
SourceId SourceIdOf(SenderId member, PeerRole role) {
  return static_cast<SourceId>((member + 2) << 2 | static_cast<uint32_t>(role));
}

std::shared_ptr<ChunkSource> Borrowed(ChunkSource& source) {
  return {std::shared_ptr<void>(), &source};
}

// Calls `use` with each stripe that the span touches, and its chunks in the span. A chunk belongs to the
// stripe of its first byte.
template <typename Use>
void ForEachStripe(const ChunkGeometry& geometry, ChunkSpan span, const Use& use) {
  const uint64_t stripe_bytes = StripeBytes(geometry.size());
  for (ChunkIndex first = span.first; first < span.end();) {
    const ChunkIndex end = std::min(StripeAround(geometry, first).end(), span.end());
    use(geometry.RangeOf(first).offset / stripe_bytes, ChunkSpan{first, end.value() - first.value()});
    first = end;
  }
}

// Calls use(ChunkSpan) for each run of `span` that is present; null: all of it.
template <typename Use>
void ForEachRun(const ChunkSet* present, ChunkSpan span, const Use& use) {
  if (!present) return use(span);
  for (ChunkIndex at = present->NextSet(span); at < span.end();) {
    const ChunkIndex end = present->NextClear(span.From(at));
    use(ChunkSpan{at, end.value() - at.value()});
    at = present->NextSet(span.From(end));
  }
}

bool HasOthers(const MemberView& view) {
  return !view.unnamed.empty() || std::any_of(view.members.begin(), view.members.end(),
                                              [](const Member& member) { return !member.is_self; });
}

}  // namespace

// Has nothing, and says so when something has come about: then the others are looked at again.
class ClusterDirectory::WaitSource final : public ChunkSource {
 public:
  // Calls `over` when it has come about; soon, and on any thread.
  using Await = std::function<void(const Blob&, FetchClass, std::function<void()> over)>;
  // A reader waits for it now. May be null.
  using Hurry = std::function<void(const Blob&)>;
  WaitSource(Executor& io, Await await, Hurry hurry = nullptr)
      : io_(io), await_(std::move(await)), hurry_(std::move(hurry)) {}

  SourceKind kind() const override { return SourceKind::kPeer; }

  FetchHandle Fetch(FetchRequest request, OnChunk, OnDone on_done) override {
    auto wait = std::make_shared<Wait>(request.blob, hurry_, std::move(on_done));
    io_.PostAt(request.deadline, [weak = std::weak_ptr<Wait>(wait)] {
      if (const auto self = weak.lock())
        self->End(absl::DeadlineExceededError("who has it was not known in time"));
    });
    await_(*request.blob, request.fetch_class,
           [wait] { wait->End(absl::NotFoundError("it is known now whom to ask")); });
    return FetchHandle(std::move(wait));
  }
  void Judge(SenderId, const Blob&, ChunkIndex, Verdict) override {}

 private:
  class Wait final : public FetchControl {
   public:
    Wait(std::shared_ptr<const Blob> blob, Hurry hurry, OnDone on_done)
        : blob_(std::move(blob)), hurry_(std::move(hurry)), on_done_(std::move(on_done)) {}
    void End(absl::Status status) {
      if (!ended_.exchange(true)) std::move(on_done_)(std::move(status));
    }
    void Raise(FetchClass fetch_class) override {
      if (hurry_ && !IsFill(fetch_class) && !ended_) hurry_(*blob_);
    }
    void Cancel() override { End(absl::CancelledError("nobody wants it any more")); }

   private:
    const std::shared_ptr<const Blob> blob_;
    const Hurry hurry_;
    std::atomic<bool> ended_{false};
    OnDone on_done_;
  };

  Executor& io_;
  const Await await_;
  const Hurry hurry_;
};

// A member that is asked by fills at its own pace.
class ClusterDirectory::PacedSource final : public ChunkSource {
 public:
  PacedSource(const Parts& parts, std::shared_ptr<ChunkSource> source)
      : source_(std::move(source)),
        gate_(*source_, {parts.clock, parts.io},
              std::make_unique<Pace>(Pace::kWindowOfMember, Pace::kWindowOfMember)) {}

  SourceKind kind() const override { return source_->kind(); }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override {
    return gate_.Fetch(std::move(request), std::move(on_chunk), std::move(on_done));
  }
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override {
    source_->Judge(sender, blob, index, verdict);
  }
  void KeptUnproven(SenderId sender, const Blob& blob, ChunkIndex index,
                    std::span<const std::byte> bytes) override {
    source_->KeptUnproven(sender, blob, index, bytes);
  }
  void NoteOutrun(bool stalled) override { source_->NoteOutrun(stalled); }

 private:
  const std::shared_ptr<ChunkSource> source_;
  GatedSource gate_;
};

ClusterDirectory::ClusterDirectory(Parts parts)
    : parts_(std::move(parts)),
      access_{parts_.clock,
              parts_.io,
              parts_.members,
              parts_.health,
              parts_.client,
              parts_.ledger,
              parts_.await_recipe,
              [this](const Blob& blob, Asker asker, const std::string& refused_by, Duration length) {
                NoteNotCarried(blob, asker, refused_by, length);
              },
              [this](const Blob& blob, const std::string& member) { NoteLacks(blob, member); },
              parts_.random,
              parts_.warn,
              parts_.download,
              parts_.blame,
              parts_.unsealed,
              parts_.tokens,
              parts_.is_public},
      homes_known_(std::make_shared<WaitSource>(
          parts_.io, [this](const Blob& blob, FetchClass,
                            std::function<void()> over) { AwaitHomes(blob, std::move(over)); })),
      cold_start_over_(std::make_shared<WaitSource>(
          parts_.io,
          [this](const Blob&, FetchClass, std::function<void()> over) { AwaitColdStart(std::move(over)); })),
      holders_known_(std::make_shared<WaitSource>(
          parts_.io,
          [this](const Blob& blob, FetchClass fetch_class, std::function<void()> over) {
            parts_.holders.Ask(*Holders::IdentityOf(blob), fetch_class, std::move(over));
          },
          [this](const Blob& blob) { parts_.holders.Hurry(*Holders::IdentityOf(blob)); })) {}

ClusterDirectory::~ClusterDirectory() = default;

void ClusterDirectory::AwaitHomes(const Blob& blob, std::function<void()> over) {
  parts_.io.Post([this, digest = blob.digest(), size = blob.geometry().size(), over = std::move(over)] {
    homes_.HomesOf(digest, size, *parts_.members.view());
    over();
  });
}

void ClusterDirectory::AwaitColdStart(std::function<void()> over) {
  if (!parts_.in_cold_start()) return over();
  parts_.io.PostAt(parts_.clock.Now() + kLookInterval,
                   [this, over = std::move(over)]() mutable { AwaitColdStart(std::move(over)); });
}

bool ClusterDirectory::IsCarried(const Blob& blob, Asker asker) const {
  if (!blob.facts()->root && parts_.unsealed == Unsealed::kFromRegistry) return false;
  const std::lock_guard lock(mutex_);
  const auto found = not_carried_.find({blob.key(), asker});
  if (found == not_carried_.end() || found->second.until <= parts_.clock.Now()) return true;
  return !found->second.refused_by.empty();
}

// The recipe may come after others have asked this node as their home, and before it reads itself. One member
// that refuses may be the one that is set up in another way: it takes two, where there are two.
void ClusterDirectory::NoteNotCarried(const Blob& blob, Asker asker, const std::string& refused_by,
                                      Duration length) {
  const std::shared_ptr<const MemberView> view = parts_.members.view();
  const auto others = std::count_if(view->members.begin(), view->members.end(),
                                    [](const Member& member) { return !member.is_self; });
  const std::lock_guard lock(mutex_);
  const Instant now = parts_.clock.Now();
  if (not_carried_.size() >= kNotCarriedMax)
    absl::erase_if(not_carried_, [&](const auto& noted) { return noted.second.until <= now; });
  if (not_carried_.size() >= kNotCarriedMax) not_carried_.clear();
  NotCarried& noted = not_carried_[{blob.key(), asker}];
  const bool by_another = noted.until > now && noted.refused_by != refused_by;
  const bool for_all = refused_by.empty() || by_another || others < 2;
  noted = {now + length, for_all ? "" : refused_by};
}

void ClusterDirectory::NoteLacks(const Blob& blob, const std::string& member) {
  if (const auto identity = Holders::IdentityOf(blob)) parts_.holders.NoteLacks(*identity, member);
  const std::lock_guard lock(mutex_);
  const Instant now = parts_.clock.Now();
  if (lacks_.size() >= kLacksMax)
    absl::erase_if(lacks_, [&](const auto& noted) { return noted.second <= now; });
  if (lacks_.size() < kLacksMax) lacks_[{blob.key(), member}] = now + kLacksKept;
}

bool ClusterDirectory::Lacks(const Blob& blob, const std::string& member) const {
  const std::lock_guard lock(mutex_);
  const auto found = lacks_.find({blob.key(), member});
  return found != lacks_.end() && found->second > parts_.clock.Now();
}

// Looking at all members takes its time, and they change seldom.
bool ClusterDirectory::IsCutOff() {
  const Instant now = parts_.clock.Now();
  if (cut_off_until_ <= now) {
    cut_off_until_ = now + kCutOffKept;
    parts_.members.Look([&](const MemberTable& table, Instant at) { cut_off_ = table.IsCutOff(at); });
  }
  return cut_off_;
}

// Where the homes of the blob are not known yet for this view, those of an earlier one serve meanwhile. Null:
// nothing is known.
const ClusterDirectory::Placed* ClusterDirectory::Place(const Blob& blob,
                                                        const std::shared_ptr<const MemberView>& view) {
  const auto found = placed_.find(blob.key());
  if (found != placed_.end() && found->second.view->id == view->id) {
    found->second.view = view;  // addresses may have changed, or who serves by this node's name
    found->second.self = view->self;
    return &found->second;
  }
  std::shared_ptr<const BlobHomes> homes = homes_.FindHomes(blob.digest(), blob.geometry().size(), *view);
  if (!homes && found == placed_.end()) return nullptr;
  if (!homes) {
    parts_.io.Post([this, digest = blob.digest(), size = blob.geometry().size(), view] {
      homes_.HomesOf(digest, size, *view);
    });
    return &found->second;
  }
  if (placed_.size() >= kPlacedMax && found == placed_.end()) placed_.erase(placed_.begin());
  Placed fresh{view, std::move(homes), view->self, nullptr, kNoMember};
  if (found != placed_.end()) {
    const Placed& old = found->second;
    const bool is_young = parts_.clock.Now() - old.view->since < kRankIsNew;
    fresh.homes_before = is_young ? old.homes_before : old.homes;
    fresh.self_before = is_young ? old.self_before : old.self;
  }
  return &(placed_[blob.key()] = std::move(fresh));
}

bool ClusterDirectory::IsElsewhere(const Placed& placed, MemberIndex member) const {
  const std::vector<Member>& members = placed.view->members;
  return placed.self != kNoMember && members[member].zone != members[placed.self].zone;
}

// Of whom this node gets a stripe that it lacks: its home, or the one of this zone that asks it. This node
// itself may be either.
MemberIndex ClusterDirectory::FetchesForZone(const Placed& placed, uint64_t stripe, Instant now) const {
  const BlobHomes& homes = *placed.homes;
  const MemberIndex home = homes.of_stripe[stripe];
  if (homes.of_zone.empty() || !IsElsewhere(placed, home)) return home;
  for (const MemberIndex member : homes.of_zone[stripe]) {
    if (member == kNoMember) break;
    if (member == placed.self || parts_.health.Usable(placed.view->members[member], now)) return member;
  }
  return home;
}

// Where this node would ask none of the ranks: the first after them that it would, or itself.
MemberIndex ClusterDirectory::SubstituteOf(const Placed& placed, const StripeRanks& ranks,
                                           Instant now) const {
  for (size_t rank = 0; rank < kRanksAsked && ranks[rank] != kNoMember; ++rank) {
    if (ranks[rank] == placed.self || parts_.health.Usable(placed.view->members[ranks[rank]], now))
      return rank < kRanks ? kNoMember : ranks[rank];
  }
  return kNoMember;
}

bool ClusterDirectory::IsNewRank(const Placed& placed, uint64_t stripe) const {
  if (parts_.clock.Now() - placed.view->since >= kRankIsNew) return false;
  return !placed.homes_before || RankOf(placed.homes_before->ranks[stripe], placed.self_before) == kRanks;
}

// Whoever does not know yet who has it asks more for it before the registry.
size_t ClusterDirectory::RanksAsked(const Placed& placed, uint64_t stripe, size_t own,
                                    const std::optional<std::vector<BlobHolder>>& holders) const {
  if (own == kRanks || placed.self == kNoMember) return kRanks;
  const std::string& self = placed.view->members[placed.self].name;
  const bool no_holders =
      holders && std::all_of(holders->begin(), holders->end(),
                             [&](const BlobHolder& holder) { return holder.name == self; });
  return no_holders || IsNewRank(placed, stripe) ? kRanksAsked : kRanks;
}

void ClusterDirectory::Offers(const Blob& blob, ChunkSpan span, FetchClass fetch_class, Asker asker,
                              const Grant&, std::vector<SourceOffer>* offers) {
  const std::shared_ptr<const MemberView> view = parts_.members.view();
  const bool refuted = parts_.blame.IsRefuted(blob);
  const bool carried = !refuted && IsCarried(blob, asker);
  if (!carried && !refuted && asker == Asker::kLocal) return OfferOrigin(SourceRank::kOrigin, span, offers);
  // Where names are not resolved yet, nobody is known, and this node is not alone for all that.
  if (parts_.in_cold_start()) return OfferColdStart(*view, span, offers);
  if (!HasOthers(*view)) return OfferOrigin(SourceRank::kOrigin, span, offers);
  if (view->members.empty()) return OfferOrigin(SourceRank::kLastResort, span, offers);
  const Placed* const placed = Place(blob, view);
  if (!placed) {
    offers->push_back({kHomesKnown, SourceRank::kHome, homes_known_, span});
    return;
  }
  std::optional<std::vector<BlobHolder>> holders;
  if (carried) {
    // Who has what is told by roots: nobody is known to have what has none.
    const std::optional<BlobIdentity> identity = Holders::IdentityOf(blob);
    holders = identity ? parts_.holders.Known(*identity) : std::vector<BlobHolder>();
  }
  const Instant now = parts_.clock.Now();
  ForEachStripe(blob.geometry(), span, [&](uint64_t stripe, ChunkSpan has) {
    const StripeRanks& ranks = placed->homes->ranks[stripe];
    MemberIndex zone_home = asker == Asker::kLocal ? FetchesForZone(*placed, stripe, now) : kNoMember;
    if (zone_home == placed->self || zone_home == ranks[0]) zone_home = kNoMember;
    const MemberIndex substitute = SubstituteOf(*placed, ranks, now);
    const bool substitutes = placed->self != kNoMember && substitute == placed->self;
    const size_t own = RankOf(ranks, placed->self);
    const size_t ranks_asked = substitutes ? kRanksAsked : RanksAsked(*placed, stripe, own, holders);
    const Part part{blob, has, asker, holders, ranks_asked, zone_home, substitute};
    if (carried && zone_home != kNoMember) {
      OfferMember(placed->view->members[zone_home], PeerRole::kZoneHome, SourceRank::kZoneHome, has, offers);
      for (const MemberIndex member : placed->homes->of_zone[stripe]) {
        if (member == kNoMember || member == placed->self || member == zone_home) continue;
        const Member& beside = placed->view->members[member];
        if (parts_.health.Usable(beside, now) && !Lacks(blob, beside.name))
          OfferMember(beside, PeerRole::kPresentOnly, SourceRank::kHedge, has, offers);
      }
    }
    if (carried) OfferRanks(*placed, ranks, own, part, offers);
    const bool holders_first = own < kRanks || substitutes || asker == Asker::kPeer;
    const SourceRank as = holders_first ? SourceRank::kHolder : SourceRank::kLateHolder;
    // A fill comes again.
    if (carried && (holders_first || !IsFill(fetch_class))) OfferHolders(*placed, ranks, part, as, offers);
    OfferOrigin(own < kRanks && !IsCutOff() ? SourceRank::kOrigin : SourceRank::kLastResort, has, offers);
  });
}

void ClusterDirectory::OfferRanks(const Placed& placed, const StripeRanks& ranks, size_t own,
                                  const Part& part, std::vector<SourceOffer>* offers) {
  const Instant now = parts_.clock.Now();
  for (size_t rank = 0; rank < part.ranks_asked; ++rank) {
    if (ranks[rank] == kNoMember || ranks[rank] == placed.self) continue;
    const Member& member = placed.view->members[ranks[rank]];
    if (!parts_.health.Usable(member, now)) continue;
    // Who waits for this node must not wait for what it asks of others.
    const bool fetches = part.asker != Asker::kPeer && rank < own;
    if (fetches) {
      constexpr SourceRank kRoles[] = {SourceRank::kHome, SourceRank::kStandIn, SourceRank::kSecondStandIn};
      OfferMember(member, PeerRole::kHome, kRoles[rank], part.has, offers);
    }
    if ((rank == 0 && fetches) || Lacks(part.blob, member.name)) continue;
    // What one of the zone gets for all is not asked of other zones beside.
    if (part.zone_home != kNoMember && IsElsewhere(placed, ranks[rank])) continue;
    const SourceRank holds =
        part.asker == Asker::kPeer || own == 0 ? SourceRank::kHolder : SourceRank::kHedge;
    OfferMember(member, PeerRole::kPresentOnly, holds, part.has, offers);
  }
  if (part.substitute != kNoMember && part.substitute != placed.self && part.asker != Asker::kPeer)
    OfferMember(placed.view->members[part.substitute], PeerRole::kHome, SourceRank::kSecondStandIn, part.has,
                offers);
}

// Whoever may ask the registry asks those first that are said to have it; who may not, before he gives up.
void ClusterDirectory::OfferHolders(const Placed& placed, const StripeRanks& ranks, const Part& part,
                                    SourceRank as, std::vector<SourceOffer>* offers) {
  if (!part.holders) {
    offers->push_back({kHoldersKnown, as, holders_known_, part.has});
    return;
  }
  const std::vector<Member>& members = placed.view->members;
  const Instant now = parts_.clock.Now();
  size_t left = kHoldersAsked;
  for (const auto& [name, present] : *part.holders) {
    if (left == 0) return;
    const auto found = std::lower_bound(
        members.begin(), members.end(), name,
        [](const Member& member, const std::string& wanted) { return member.name < wanted; });
    if (found == members.end() || found->name != name || found->is_self) continue;
    const auto ranks_end = ranks.begin() + static_cast<std::ptrdiff_t>(part.ranks_asked);
    const auto index = static_cast<MemberIndex>(found - members.begin());
    const bool is_asked = std::find(ranks.begin(), ranks_end, index) != ranks_end;
    if (is_asked || !parts_.health.Usable(*found, now)) continue;
    if (part.zone_home != kNoMember && IsElsewhere(placed, index)) continue;
    if (!present && Lacks(part.blob, name)) continue;
    const size_t before = offers->size();
    ForEachRun(present.get(), part.has,
               [&](ChunkSpan run) { OfferMember(*found, PeerRole::kPresentOnly, as, run, offers); });
    if (offers->size() > before) --left;
  }
}

// Who is asked for what it has while this node does not know yet who is home of what.
void ClusterDirectory::OfferColdStart(const MemberView& view, ChunkSpan has,
                                      std::vector<SourceOffer>* offers) {
  size_t left = kUnnamedAsked;
  const Instant now = parts_.clock.Now();
  for (const std::vector<Member>* members : {&view.members, &view.unnamed}) {
    for (const Member& member : *members) {
      if (left == 0) break;
      if (member.is_self || !parts_.health.Usable(member, now)) continue;
      OfferMember(member, PeerRole::kPresentOnly, SourceRank::kHolder, has, offers);
      --left;
    }
  }
  offers->push_back({kColdStartOver, SourceRank::kOrigin, cold_start_over_, has});
}

void ClusterDirectory::OfferMember(const Member& member, PeerRole role, SourceRank rank, ChunkSpan has,
                                   std::vector<SourceOffer>* offers) {
  const SourceId id = SourceIdOf(parts_.health.IdOf(member.name), role);
  offers->push_back({id, rank, SourceOf(member, role, id), has});
}

std::shared_ptr<ChunkSource> ClusterDirectory::SourceOf(const Member& member, PeerRole role, SourceId id) {
  if (sources_.size() >= kSourcesKept) sources_.clear();
  MemberAsked& asked = sources_[id];
  if (asked.source && asked.address == member.address) return asked.source;
  asked.address = member.address;
  auto source = std::make_shared<MemberSource>(access_, member, role);
  asked.source = source;
  // Whoever fetches for others is asked by fills for no more than it gives soon.
  if (role != PeerRole::kPresentOnly) asked.source = std::make_shared<PacedSource>(parts_, std::move(source));
  return asked.source;
}

void ClusterDirectory::OfferOrigin(SourceRank rank, ChunkSpan has, std::vector<SourceOffer>* offers) const {
  if (rank == SourceRank::kOrigin) {
    offers->push_back({kOrigin, rank, Borrowed(parts_.origin), has});
  } else {
    offers->push_back({kLastResort, rank, Borrowed(parts_.last_resort), has});
  }
}

// This node's own parts and those of the others by turns, those of each home in their order: so every home is
// asked for what it fetches just then, and all of them at once.
std::vector<ChunkSpan> ClusterDirectory::FillOrder(const Blob& blob, ChunkSpan span) {
  const std::shared_ptr<const MemberView> view = parts_.members.view();
  if (!IsCarried(blob, Asker::kLocal) || !HasOthers(*view) || view->members.empty()) return {span};
  if (StripeCount(blob.geometry().size()) * view->members.size() <= kComputedAtOnce)
    homes_.HomesOf(blob.digest(), blob.geometry().size(), *view);
  const Placed* const placed = Place(blob, view);
  if (!placed) return {span};
  const size_t count = placed->view->members.size();
  const uint32_t part = std::max<uint32_t>(1, kPartBytes / blob.geometry().chunk_size());
  std::vector<std::vector<ChunkSpan>> of_home(count);
  size_t part_count = 0;
  const Instant now = parts_.clock.Now();
  ForEachStripe(blob.geometry(), span, [&](uint64_t stripe, ChunkSpan chunks) {
    std::vector<ChunkSpan>& parts = of_home[FetchesForZone(*placed, stripe, now)];
    for (; chunks.count > 0; chunks = chunks.From(parts.back().end()), ++part_count)
      parts.push_back({chunks.first, std::min(part, chunks.count)});
  });
  std::vector<ChunkSpan> order;
  const size_t self = placed->self == kNoMember ? 0 : placed->self;
  const size_t ahead = placed->self == kNoMember ? 0 : kOwnPartsAhead;
  for (size_t turn = 0; order.size() < part_count; ++turn) {
    for (size_t i = 0; i < count; ++i) {
      const std::vector<ChunkSpan>& parts = of_home[(self + i) % count];
      // So many at once at first, then one each time.
      const size_t end = std::min(parts.size(), turn + 1 + (i == 0 ? ahead : 0));
      for (size_t next = i == 0 && turn > 0 ? turn + ahead : turn; next < end; ++next)
        order.push_back(parts[next]);
    }
  }
  return order;
}

}  // namespace sluice::p2p
