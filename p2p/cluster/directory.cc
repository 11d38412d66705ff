#include "p2p/cluster/directory.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

constexpr SourceId kOrigin{1}, kLastResort{2}, kHomesKnown{3}, kColdStartOver{4};
// How often it is looked whether what is waited for has come.
constexpr Duration kLookInterval = std::chrono::milliseconds(25);
constexpr Duration kCutOffKept = std::chrono::seconds(1);
// Stripes times members, for which homes are computed where a fill begins: a millisecond.
constexpr size_t kComputedAtOnce = 1 << 18;

// A member in one role. Members' numbers begin at 1.
SourceId SourceIdOf(SenderId member, PeerRole role) {
  return static_cast<SourceId>((member + 1) << 1 | static_cast<uint32_t>(role == PeerRole::kPresentOnly));
}

std::shared_ptr<ChunkSource> Borrowed(ChunkSource& source) {
  return {std::shared_ptr<void>(), &source};
}

MemberIndex SelfIn(const MemberView& view) {
  const auto self = std::find_if(view.members.begin(), view.members.end(),
                                 [](const Member& member) { return member.is_self; });
  return self == view.members.end() ? kNoMember : static_cast<MemberIndex>(self - view.members.begin());
}

// Calls `use` with each stripe that the span touches, and its chunks in the span. A chunk belongs to the
// stripe of its first byte.
template <typename Use>
void ForEachStripe(const ChunkGeometry& geometry, ChunkSpan span, const Use& use) {
  const uint64_t stripe_bytes = StripeBytes(geometry.size());
  for (ChunkIndex first = span.first; first < span.end();) {
    const uint64_t stripe = geometry.RangeOf(first).offset / stripe_bytes;
    ChunkIndex end = first.next();
    while (end < span.end() && geometry.RangeOf(end).offset / stripe_bytes == stripe) end = end.next();
    use(stripe, ChunkSpan{first, end.value() - first.value()});
    first = end;
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
  using IsOver = std::function<bool(const Blob&)>;
  WaitSource(const Clock& clock, Executor& io, IsOver is_over)
      : clock_(clock), io_(io), is_over_(std::move(is_over)) {}

  SourceKind kind() const override { return SourceKind::kPeer; }

  FetchHandle Fetch(FetchRequest request, OnChunk, OnDone on_done) override {
    auto wait = std::make_shared<Wait>(*this, std::move(request), std::move(on_done));
    io_.Post([wait] { wait->Look(); });
    return FetchHandle(std::move(wait));
  }
  void Judge(SenderId, const Blob&, ChunkIndex, Verdict) override {}

 private:
  class Wait final : public FetchControl, public std::enable_shared_from_this<Wait> {
   public:
    Wait(const WaitSource& source, FetchRequest request, OnDone on_done)
        : source_(source), request_(std::move(request)), on_done_(std::move(on_done)) {}

    void Look() {
      const Instant now = source_.clock_.Now();
      if (cancelled_) return std::move(on_done_)(absl::CancelledError("nobody wants it any more"));
      if (now >= request_.deadline)
        return std::move(on_done_)(absl::DeadlineExceededError("the members were not known in time"));
      if (source_.is_over_(*request_.blob))
        return std::move(on_done_)(absl::NotFoundError("the members are known now"));
      request_.progress->Sign(/*patience=*/true);
      source_.io_.PostAt(now + kLookInterval, [self = shared_from_this()] { self->Look(); });
    }
    void Raise(FetchClass) override {}
    void Cancel() override { cancelled_ = true; }

   private:
    const WaitSource& source_;
    const FetchRequest request_;
    OnDone on_done_;
    std::atomic<bool> cancelled_{false};
  };

  const Clock& clock_;
  Executor& io_;
  const IsOver is_over_;
};

ClusterDirectory::ClusterDirectory(Parts parts)
    : parts_(std::move(parts)),
      access_{parts_.clock,
              parts_.io,
              parts_.members,
              parts_.health,
              parts_.client,
              parts_.ledger,
              parts_.has_bound_recipe,
              [this](const Blob& blob, Duration length) { NoteNotCarried(blob, length); },
              parts_.random,
              parts_.warn},
      homes_known_(std::make_shared<WaitSource>(parts_.clock, parts_.io,
                                                [this](const Blob& blob) {
                                                  homes_.HomesOf(blob.digest(), blob.geometry().size(),
                                                                 *parts_.members.view());
                                                  return true;
                                                })),
      cold_start_over_(std::make_shared<WaitSource>(
          parts_.clock, parts_.io, [this](const Blob&) { return !parts_.in_cold_start(); })) {}

ClusterDirectory::~ClusterDirectory() = default;

bool ClusterDirectory::IsCarried(const Blob& blob) const {
  if (!blob.facts()->root) return false;
  const std::lock_guard lock(mutex_);
  const auto found = not_carried_.find(blob.key());
  return found == not_carried_.end() || found->second <= parts_.clock.Now();
}

void ClusterDirectory::NoteNotCarried(const Blob& blob, Duration length) {
  const std::lock_guard lock(mutex_);
  const Instant now = parts_.clock.Now();
  if (not_carried_.size() >= kNotCarriedMax)
    absl::erase_if(not_carried_, [&](const auto& noted) { return noted.second <= now; });
  if (not_carried_.size() >= kNotCarriedMax) not_carried_.clear();
  not_carried_[blob.key()] = now + length;
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
    found->second.view = view;  // addresses may have changed
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
  return &(placed_[blob.key()] = Placed{view, std::move(homes), SelfIn(*view)});
}

void ClusterDirectory::Offers(const Blob& blob, ChunkSpan span, FetchClass, Asker asker, const Grant&,
                              std::vector<SourceOffer>* offers) {
  const std::shared_ptr<const MemberView> view = parts_.members.view();
  const bool carried = IsCarried(blob);
  if (!HasOthers(*view) || (!carried && asker == Asker::kLocal))
    return OfferOrigin(SourceRank::kOrigin, span, offers);
  if (parts_.in_cold_start()) return OfferColdStart(*view, span, offers);
  if (view->members.empty()) return OfferOrigin(SourceRank::kLastResort, span, offers);
  const Placed* const placed = Place(blob, view);
  if (!placed) {
    offers->push_back({kHomesKnown, SourceRank::kHome, homes_known_, span});
    return;
  }
  ForEachStripe(blob.geometry(), span, [&](uint64_t stripe, ChunkSpan has) {
    OfferRanks(*placed, placed->homes->ranks[stripe], has, asker, offers);
  });
}

void ClusterDirectory::OfferRanks(const Placed& placed, const StripeRanks& ranks, ChunkSpan has, Asker asker,
                                  std::vector<SourceOffer>* offers) {
  const Instant now = parts_.clock.Now();
  const size_t own =
      placed.self == kNoMember
          ? kRanks
          : static_cast<size_t>(std::find(ranks.begin(), ranks.end(), placed.self) - ranks.begin());
  for (size_t rank = 0; rank < kRanks; ++rank) {
    if (ranks[rank] == kNoMember || rank == own) continue;
    const Member& member = placed.view->members[ranks[rank]];
    if (!parts_.health.Usable(member.name, now)) continue;
    // Who waits for this node must not wait for what it asks of others.
    const bool fetches = asker == Asker::kLocal && rank < own;
    if (fetches) {
      constexpr SourceRank kRoles[] = {SourceRank::kHome, SourceRank::kStandIn, SourceRank::kSecondStandIn};
      OfferMember(member, PeerRole::kHome, kRoles[rank], has, offers);
    }
    if (rank == 0 && fetches) continue;
    const SourceRank holds = asker == Asker::kPeer || own == 0 ? SourceRank::kHolder : SourceRank::kHedge;
    OfferMember(member, PeerRole::kPresentOnly, holds, has, offers);
  }
  OfferOrigin(own < kRanks && !IsCutOff() ? SourceRank::kOrigin : SourceRank::kLastResort, has, offers);
}

// Who is asked for what it has while this node does not know yet who is home of what.
void ClusterDirectory::OfferColdStart(const MemberView& view, ChunkSpan has,
                                      std::vector<SourceOffer>* offers) {
  size_t left = kUnnamedAsked;
  const Instant now = parts_.clock.Now();
  for (const std::vector<Member>* members : {&view.members, &view.unnamed}) {
    for (const Member& member : *members) {
      if (left == 0) break;
      if (member.is_self || !parts_.health.Usable(member.name, now)) continue;
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

std::shared_ptr<MemberSource> ClusterDirectory::SourceOf(const Member& member, PeerRole role, SourceId id) {
  if (sources_.size() >= kSourcesKept) sources_.clear();
  std::shared_ptr<MemberSource>& source = sources_[id];
  if (!source || source->member().name != member.name || source->member().address != member.address)
    source = std::make_shared<MemberSource>(access_, member, role);
  return source;
}

void ClusterDirectory::OfferOrigin(SourceRank rank, ChunkSpan has, std::vector<SourceOffer>* offers) const {
  if (rank == SourceRank::kOrigin) {
    offers->push_back({kOrigin, rank, Borrowed(parts_.origin), has});
  } else {
    offers->push_back({kLastResort, rank, Borrowed(parts_.last_resort), has});
  }
}

// This node's own stripes and those of the others by turns, those of each home in their order: so every home
// is asked for what it fetches just then, and all of them at once.
std::vector<ChunkSpan> ClusterDirectory::FillOrder(const Blob& blob, ChunkSpan span) {
  const std::shared_ptr<const MemberView> view = parts_.members.view();
  if (!IsCarried(blob) || !HasOthers(*view) || view->members.empty()) return {span};
  if (StripeCount(blob.geometry().size()) * view->members.size() <= kComputedAtOnce)
    homes_.HomesOf(blob.digest(), blob.geometry().size(), *view);
  const Placed* const placed = Place(blob, view);
  if (!placed) return {span};
  const size_t count = placed->view->members.size();
  std::vector<std::vector<ChunkSpan>> of_home(count);
  ForEachStripe(blob.geometry(), span, [&](uint64_t stripe, ChunkSpan chunks) {
    of_home[placed->homes->of_stripe[stripe]].push_back(chunks);
  });
  std::vector<ChunkSpan> order;
  const size_t self = placed->self == kNoMember ? 0 : placed->self;
  for (size_t turn = 0, left = 1; left > 0; ++turn) {
    left = 0;
    for (size_t i = 0; i < count; ++i) {
      const std::vector<ChunkSpan>& stripes = of_home[(self + i) % count];
      if (turn < stripes.size()) order.push_back(stripes[turn]);
      if (turn + 1 < stripes.size()) ++left;
    }
  }
  return order;
}

}  // namespace sluice::p2p
