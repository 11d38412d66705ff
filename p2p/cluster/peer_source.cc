#include "p2p/cluster/peer_source.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"

namespace sluice::p2p {
namespace {

constexpr size_t kOriginsAskedMax = 2;  // repositories that a member is asked by

// A sender's number tells the member, and the repository by which it gave the chunk.
SenderId SenderOf(SenderId member, const BlobOrigin& origin) {
  return static_cast<SenderId>(member << 16 | TagOf(origin));
}

using Candidates = std::shared_ptr<const std::vector<Member>>;

// A run of chunks, and whom it is asked of.
struct Group {
  ChunkSpan chunks;
  std::vector<Member> members;
};

bool SameMembers(const std::vector<Member>& a, const std::vector<Member>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Member& x, const Member& y) { return x.name == y.name; });
}

// The request cut where another member is to be asked.
std::vector<Group> GroupsOf(const FetchRequest& request, const MemberView& view, const BlobHomes& homes,
                            const MemberHealth& health, Instant now) {
  const ChunkGeometry& geometry = request.blob->geometry();
  const uint64_t stripe_bytes = StripeBytes(geometry.size());
  std::vector<Group> groups;
  uint64_t last_stripe = UINT64_MAX;
  for (ChunkIndex index = request.chunks.first; index < request.chunks.end(); index = index.next()) {
    // A chunk belongs to the stripe of its first byte.
    const uint64_t stripe = geometry.RangeOf(index).offset / stripe_bytes;
    if (stripe != last_stripe) {
      last_stripe = stripe;
      std::vector<Member> chosen = RanksOfStripe(
          view, homes, stripe, health, PeerSource::kMembersAskedMax + PeerSource::kStandInsMax, now);
      if (groups.empty() || !SameMembers(groups.back().members, chosen))
        groups.push_back({{index, 0}, std::move(chosen)});
    }
    ++groups.back().chunks.count;
  }
  return groups;
}

// The whole chunks of `span` that lie within one of the ranges, and the others.
struct Split {
  std::vector<ChunkSpan> within;
  std::vector<ChunkSpan> outside;
};
Split SplitBy(const std::vector<ByteRange>& ranges, ChunkSpan span, const ChunkGeometry& geometry) {
  Split split;
  const auto append = [](std::vector<ChunkSpan>& runs, ChunkIndex index) {
    if (!runs.empty() && runs.back().end() == index) {
      ++runs.back().count;
    } else {
      runs.push_back({index, 1});
    }
  };
  for (ChunkIndex index = span.first; index < span.end(); index = index.next()) {
    const ByteRange chunk = geometry.RangeOf(index);
    const bool inside = std::any_of(ranges.begin(), ranges.end(), [&](ByteRange range) {
      return range.offset <= chunk.offset && chunk.end() <= range.end();
    });
    append(inside ? split.within : split.outside, index);
  }
  return split;
}

// One fetch, until its OnDone. What is asked of members is asked at once; answers come on the client's
// thread, one after the other.
class PeerFetch final : public FetchControl, public std::enable_shared_from_this<PeerFetch> {
 public:
  PeerFetch(const PeerSource::Parts& parts, HomesCache& homes, FetchRequest request,
            ChunkSource::OnChunk on_chunk, ChunkSource::OnDone on_done)
      : parts_(parts),
        homes_(homes),
        request_(std::move(request)),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)),
        facts_(request_.blob->facts()) {}

  void Start() {
    const std::shared_ptr<const MemberView> view = parts_.members.view();
    if ((view->members.empty() && view->unnamed.empty()) || facts_->origins.empty() ||
        !parts_.has_bound_recipe(*request_.blob))
      return std::move(on_done_)(NotThere());
    const std::shared_ptr<const BlobHomes> homes =
        homes_.HomesOf(request_.blob->digest(), request_.blob->geometry().size(), *view);
    std::vector<Group> groups = GroupsOf(request_, *view, *homes, parts_.health, parts_.clock.Now());
    open_ = groups.size();
    for (Group& group : groups) {
      Ask(group.chunks, std::make_shared<const std::vector<Member>>(std::move(group.members)), Turn{});
    }
  }

  void Raise(FetchClass fetch_class) override {
    const std::lock_guard lock(asked_mutex_);
    fetch_class_ = std::min(fetch_class_, fetch_class);
    for (const PeerClient::RequestId id : asked_) parts_.client.Raise(id, fetch_class);
  }

  void Cancel() override {
    const std::lock_guard lock(asked_mutex_);
    cancelled_ = true;
    for (const PeerClient::RequestId id : asked_) parts_.client.Cancel(id);
  }

 private:
  // Whether the member itself named these chunks as present.
  enum class Named { kNo, kYes };

  // Whose turn it is. Who is down does not count among those that were asked: another stands in.
  struct Turn {
    size_t position = 0;  // counts members and origins
    size_t answered = 0;  // members that said that they lack it
    Named named = Named::kNo;
  };

  // One request's answer, chunk by chunk.
  struct Arriving {
    ChunkSpan chunks;
    ChunkIndex next;  // the first that was not delivered
    Buffer bytes;
    size_t filled = 0;
  };

  absl::Status NotThere() const {
    return absl::NotFoundError(
        absl::StrCat("no member that was asked has all of blob ", request_.blob->digest().ToString()));
  }

  // A member gives only what it got from the very repository that it is asked for, so each is asked for more
  // than one.
  size_t origin_count() const { return std::min(kOriginsAskedMax, facts_->origins.size()); }
  const Member& MemberAt(const Candidates& members, size_t position) const {
    return (*members)[position / origin_count()];
  }
  const BlobOrigin& OriginAt(size_t position) const { return facts_->origins[position % origin_count()]; }

  Turn NextName(Turn turn) const {
    ++turn.position;
    turn.named = Named::kNo;
    if (turn.position % origin_count() == 0) ++turn.answered;
    return turn;
  }
  Turn NextMember(Turn turn) const {
    return {(turn.position / origin_count() + 1) * origin_count(), turn.answered, Named::kNo};
  }

  // REQUIRES: it is one of those counted in open_
  void Ask(ChunkSpan chunks, const Candidates& members, Turn turn) {
    if (turn.position >= members->size() * origin_count() || turn.answered == PeerSource::kMembersAskedMax) {
      complete_ = false;
      return CloseOne();
    }
    const Member& member = MemberAt(members, turn.position);
    auto arriving = std::make_shared<Arriving>(Arriving{chunks, chunks.first, {}, 0});
    // Whoever is slow leaves time for the next, and at last for the origin.
    const Instant now = parts_.clock.Now();
    const auto [cancelled, fetch_class] = Wanted();
    if (cancelled) {
      End(absl::CancelledError("nobody wants it any more"));
      return CloseOne();
    }
    // The answer may come before the request's number is noted: the fetch ends after both.
    ++open_;
    const PeerClient::RequestId id = parts_.client.ReadRange(
        member, OriginAt(turn.position), *facts_, request_.blob->geometry().RangeOf(chunks), fetch_class,
        now + (request_.deadline - now) / 2,
        [self = shared_from_this(), arriving,
         sender = SenderOf(parts_.health.IdOf(member.name), OriginAt(turn.position))](
            std::span<const std::byte> bytes) { self->OnData(*arriving, bytes, sender); },
        [self = shared_from_this(), arriving, members, turn](PeerClient::RangeOutcome outcome) {
          self->OnAnswer(*arriving, members, turn, std::move(outcome));
        });
    NoteAsked(id);
    CloseOne();
  }

  std::pair<bool, FetchClass> Wanted() {
    const std::lock_guard lock(asked_mutex_);
    return {cancelled_, fetch_class_};
  }

  // By now it may have been cancelled or raised.
  void NoteAsked(PeerClient::RequestId id) {
    const std::lock_guard lock(asked_mutex_);
    asked_.push_back(id);
    if (cancelled_) parts_.client.Cancel(id);
    parts_.client.Raise(id, fetch_class_);
  }

  void OnData(Arriving& arriving, std::span<const std::byte> bytes, SenderId sender) {
    request_.progress->Add(bytes.size());
    while (!bytes.empty()) {
      if (arriving.filled == 0)
        arriving.bytes = Buffer(request_.blob->geometry().RangeOf(arriving.next).length);
      const size_t n = std::min(bytes.size(), arriving.bytes.size() - arriving.filled);
      std::memcpy(arriving.bytes.data() + arriving.filled, bytes.data(), n);
      arriving.filled += n;
      bytes = bytes.subspan(n);
      if (arriving.filled < arriving.bytes.size()) return;
      arriving.filled = 0;
      on_chunk_(std::exchange(arriving.next, arriving.next.next()), std::move(arriving.bytes), sender);
    }
  }

  void OnAnswer(const Arriving& arriving, const Candidates& members, Turn turn,
                PeerClient::RangeOutcome outcome) {
    const Member& member = MemberAt(members, turn.position);
    const ChunkSpan came{arriving.chunks.first, arriving.next.value() - arriving.chunks.first.value()};
    if (came.count > 0) {
      parts_.health.Received(member.name, request_.blob->geometry().RangeOf(came).length, parts_.clock.Now());
    }
    if (outcome.status.ok()) {
      parts_.health.Succeeded(member.name);
      return CloseOne();
    }
    if (absl::IsDeadlineExceeded(outcome.status) && parts_.clock.Now() < request_.deadline)
      outcome.status = absl::UnavailableError("it took more than its part of the time");
    NoteFailure(member, outcome.status);
    const ChunkSpan left{arriving.next, arriving.chunks.end().value() - arriving.next.value()};
    // An answer may go wrong after its last byte.
    if (left.count == 0) return CloseOne();
    if (absl::IsDeadlineExceeded(outcome.status) || absl::IsCancelled(outcome.status)) {
      End(std::move(outcome.status));
      return CloseOne();
    }
    if (turn.named == Named::kYes || outcome.present.empty()) {
      // Only a member that lacks it by one name may have it by another.
      return Ask(left, members, absl::IsNotFound(outcome.status) ? NextName(turn) : NextMember(turn));
    }
    const Split split = SplitBy(outcome.present, left, request_.blob->geometry());
    open_ += split.within.size() + split.outside.size() - 1;
    for (const ChunkSpan& run : split.within)
      Ask(run, members, Turn{turn.position, turn.answered, Named::kYes});
    for (const ChunkSpan& run : split.outside) Ask(run, members, NextName(turn));
  }

  void NoteFailure(const Member& member, const absl::Status& status) {
    if (absl::IsPermissionDenied(status)) return parts_.members.NoteSelf(member.name);
    if (absl::IsNotFound(status)) return parts_.health.Succeeded(member.name);
    if (absl::IsDeadlineExceeded(status) || absl::IsCancelled(status)) return;
    const Duration skip =
        parts_.health.Failed(member.name, parts_.clock.Now(), std::string(status.message()));
    if (skip == Duration(0)) return;
    parts_.warn(absl::StrCat("member ", member.name, " is not asked for ",
                             std::chrono::duration_cast<std::chrono::seconds>(skip).count(),
                             " s: ", status.message()));
  }

  void End(absl::Status status) {
    const std::lock_guard lock(ended_mutex_);
    ended_ = std::move(status);
  }

  void CloseOne() {
    if (--open_ > 0) return;
    if (!ended_.ok()) return std::move(on_done_)(std::move(ended_));
    std::move(on_done_)(complete_ ? absl::OkStatus() : NotThere());
  }

  const PeerSource::Parts& parts_;
  HomesCache& homes_;
  const FetchRequest request_;
  ChunkSource::OnChunk on_chunk_;
  ChunkSource::OnDone on_done_;
  const std::shared_ptr<const BlobSpec> facts_;

  // Requests begin on the pool while answers come on the client's thread.
  std::atomic<size_t> open_{0};
  std::atomic<bool> complete_{true};
  // Written on the client's thread, and where a client that is stopped answers at once; read when nothing is
  // open any more.
  std::mutex ended_mutex_;
  absl::Status ended_;

  std::mutex asked_mutex_;                    // guards what follows
  std::vector<PeerClient::RequestId> asked_;  // of all members so far
  bool cancelled_ = false;
  FetchClass fetch_class_ = request_.fetch_class;
};

}  // namespace

FetchHandle PeerSource::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  auto fetch = std::make_shared<PeerFetch>(parts_, homes_, std::move(request), std::move(on_chunk),
                                           std::move(on_done));
  // Looking for the recipe may block on disk, and homes may have to be computed.
  parts_.io.Post([fetch] { fetch->Start(); });
  return FetchHandle(std::move(fetch));
}

std::string PeerSource::MemberOf(SenderId sender) const {
  return parts_.health.NameOf(static_cast<SenderId>(sender >> 16));
}

void PeerSource::Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) {
  if (verdict == Verdict::kRight) {
    // Only who has the blob can give a chunk of it: before it was proven its word counted for nothing.
    const std::shared_ptr<const BlobSpec> facts = blob.facts();
    const auto is_named = [&](const BlobOrigin& origin) { return TagOf(origin) == (sender & 0xffff); };
    const auto named = std::find_if(facts->origins.begin(), facts->origins.end(), is_named);
    // Of two with one tag nobody knows which it was.
    if (std::count_if(facts->origins.begin(), facts->origins.end(), is_named) == 1)
      parts_.ledger.NoteAccess(blob.key(), *named, OriginAccess::kHearsay);
    return;
  }
  const std::string name = MemberOf(sender);
  if (name.empty()) return;
  parts_.health.SentWrong(name, parts_.clock.Now(),
                          absl::StrCat("chunk ", index.value(), " of blob ", blob.digest().ToString()));
  parts_.warn(absl::StrCat("member ", name, " sent wrong bytes for chunk ", index.value(), " of blob ",
                           blob.digest().ToString(), ": dropped, and it is not asked for ",
                           std::chrono::duration_cast<std::chrono::seconds>(MemberHealth::kSkipWrong).count(),
                           " s"));
}

}  // namespace sluice::p2p
