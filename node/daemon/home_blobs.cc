#include "node/daemon/home_blobs.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "api/http/chunk_request.h"
#include "node/daemon/peer_documents.h"
#include "p2p/cluster/assignment.h"
#include "p2p/registry/pull_grant.h"

namespace sluice {
namespace {

using api::PeerBlobAnswer;
using api::PeerBlobRequest;
using api::PeerRefusal;
using p2p::Spreader;
using Why = PeerRefusal::Why;

// To come again where the origin or the disk is not there just now, and where a chunk was taken back just
// when it was to be given.
constexpr Duration kRetryAway = std::chrono::milliseconds(200);
constexpr Duration kRetrySoon = std::chrono::milliseconds(5);
// Whoever waits for what flows here is told so after that time, well before it takes this node for silent.
constexpr Duration kSignOfFlow = std::chrono::milliseconds(500);
// What is to go and is in use is tried so often, each time after so long.
constexpr int kDropTries = 10;
// Whoever is sent here by a home, since this node gets the chunk, may come some milliseconds too early. No
// longer: it may be its turn to give it to this node.
constexpr Duration kSoon = std::chrono::milliseconds(30);
constexpr Duration kDropRetry = std::chrono::milliseconds(100);
// So long a fill waits for its turn at a home at most; so does a reader that comes to want the chunk, too.
constexpr Duration kTurnMax = std::chrono::milliseconds(250);

PeerRefusal Busy(Duration retry) {
  return {.why = Why::kBusy, .retry = retry};
}

// What a home says of why it did not get a chunk.
PeerRefusal RefusalOf(const absl::Status& status, PeerTrust trust) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      // This node asked by its own right, of which a stranger learns nothing: what is nowhere looks to him as
      // what is private.
      return {.why = trust == PeerTrust::kProven ? Why::kAbsent : Why::kAskYourself};
    // The store takes no unproven chunk of what several repositories share, and there are registries that
    // refuse this node alone: who asks may have another way.
    case absl::StatusCode::kFailedPrecondition:
      return {.why = Why::kAskYourself};
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return {.why = Why::kAskYourself, .takes_credentials = true};
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kDataLoss:
      return {.why = Why::kContradicted};
    // To wait for room here is no way to get it: the next one may have it.
    case absl::StatusCode::kResourceExhausted:
      return {.why = Why::kNoRoom};
    default:
      return Busy(kRetryAway);
  }
}

bool SaysTheSame(const BlobSpec& known, const BlobSpec& claim) {
  const BlobOrigin& origin = claim.origins.front();
  const auto said = std::find(known.origins.begin(), known.origins.end(), origin);
  const StoredForm* const stored = known.StoredAt(origin);
  const StoredForm* const claimed = claim.StoredAt(origin);
  const bool same_form = stored && claimed ? *stored == *claimed : stored == claimed;
  return said != known.origins.end() && known.root == claim.root && same_form;
}

}  // namespace

// A request that is being answered.
struct HomeBlobs::Asked {
  const PeerBlobRequest request;

  // Written on the I/O pool before anything waits, constant afterwards.
  std::shared_ptr<Blob> blob;
  Spreader::ChunkName chunk;

  ReadMode waited = ReadMode::kFetch;  // how it waits, or did last
  bool has_place_to_send = false;      // of whoever starts a read, then of whoever is told of its end

  std::mutex mutex;
  // Guarded by mutex.
  Task on_wait;
  OnAnswer on_answer;  // null: answered
  std::optional<ReadId> read;
  std::optional<Spreader::RequestId> place;

  const BlobOrigin& origin() const { return request.claim.spec.origins.front(); }
  ChunkSpan span() const { return blob->geometry().Covering(request.range); }
  Spreader::Request ToSpread() const {
    return {chunk,
            request.asker,
            request.fetch_class,
            request.tried,
            request.role == PeerRole::kPresentOnly,
            !blob->presence().AllPresent(span()),
            /*may_wait_turn=*/true};
  }
  std::optional<Spreader::RequestId> Place() {
    const std::lock_guard lock(mutex);
    return place;
  }
  bool IsOver() {
    const std::lock_guard lock(mutex);
    return on_answer == nullptr;
  }
};

Task HomeBlobs::Ask(PeerBlobRequest request, Task on_wait, OnAnswer on_answer) {
  // A node whose own list forbids the repository lets nobody reach it through itself.
  const bool allowed = parts_.allowed.Permits(request.claim.spec.origins.front()).ok();
  const bool home = request.role != PeerRole::kPresentOnly;
  request.claim.spec.is_hearsay = true;
  const AskedPtr asked(new Asked{.request = std::move(request),
                                 .blob = nullptr,
                                 .chunk = {},
                                 .waited = ReadMode::kFetch,
                                 .has_place_to_send = false,
                                 .mutex = {},
                                 .on_wait = std::move(on_wait),
                                 .on_answer = std::move(on_answer),
                                 .read = {},
                                 .place = {}});
  if (!allowed) {
    Refuse(asked, {.why = home ? Why::kAskYourself : Why::kAbsent});
  } else {
    parts_.io.Post([self = shared_from_this(), asked] { self->Open(asked); });
  }
  return [weak = weak_from_this(), asked] {
    if (const auto self = weak.lock()) self->GiveUp(asked);
  };
}

// ------------------------------------------------------------------------------------- finding the blob

// Of what was imported the registry is asked first whether the repository has it.
void HomeBlobs::Open(const AskedPtr& asked) {
  const BlobSpec& spec = asked->request.claim.spec;
  if (asked->IsOver()) return;
  if (!parts_.know_imported) return Find(asked);
  const bool home = asked->request.role != PeerRole::kPresentOnly;
  // A stranger would hear by his wait that it is here. Who asks a home waits for the registry in any case.
  const bool waits = home || parts_.trust == PeerTrust::kProven;
  Task then;
  if (waits) then = [self = shared_from_this(), asked] { self->Find(asked); };
  const bool known = parts_.know_imported(spec.digest, asked->origin(), spec.size, std::move(then));
  if (known || !waits) return Find(asked);
  GiveUpInTime(asked);
  if (home) return SayWaiting(asked);
  SayWaitingSoon(asked);
}

void HomeBlobs::Find(const AskedPtr& asked) {
  const BlobClaim& claim = asked->request.claim;
  const bool home = asked->request.role != PeerRole::kPresentOnly;
  if (asked->IsOver()) return;
  if (home) {
    const absl::StatusOr<std::shared_ptr<Blob>> opened = parts_.store.Open(claim.spec);
    if (!opened.ok()) return Refuse(asked, RefusalOf(opened.status(), parts_.trust));
    asked->blob = *opened;
  } else {
    asked->blob = FindKnown(claim);
  }
  if (!asked->blob || asked->blob->refused()) return Refuse(asked, {.why = Why::kAbsent});
  const std::optional<Digest> root = asked->blob->facts()->root;
  // Only one that is proven is shared by whoever says another.
  if (root && claim.spec.root && root != claim.spec.root) return Refuse(asked, {.why = Why::kContradicted});
  if (!MayGet(*asked)) return RefuseAsOrigin(asked);
  asked->chunk = {asked->blob->key(), asked->span().first};
  if (asked->blob->presence().AllPresent(asked->span())) return GivePresent(asked);
  if (FlowOf(*asked)) return AskForPlace(asked);
  if (!home) return WaitForFlow(asked);
  if (!parts_.await_recipe) return Begin(asked, /*provable=*/true);
  const bool begun = parts_.await_recipe(
      asked->blob, asked->request.asker,
      [self = shared_from_this(), asked](bool provable) { self->Begin(asked, provable); });
  if (!begun) SayWaiting(asked);
}

void HomeBlobs::Begin(const AskedPtr& asked, bool provable) {
  if (asked->IsOver()) return;
  if (asked->blob->presence().AllPresent(asked->span())) return GivePresent(asked);
  // By its zone's right it is to be had from members alone.
  if (asked->request.role == PeerRole::kZoneHome && !provable) return Refuse(asked, {.why = Why::kAbsent});
  WaitFromStart(asked, ReadMode::kFetch);
}

// One that is here and of which the asker says the same, or that is proven.
std::shared_ptr<Blob> HomeBlobs::FindKnown(const BlobClaim& claim) const {
  std::shared_ptr<Blob> found;
  for (const BlobKey& key : parts_.store.KeysOf(claim.spec.digest)) {
    std::shared_ptr<Blob> blob = parts_.store.Find(key);
    if (!blob || blob->refused() || blob->geometry().size() != claim.spec.size ||
        blob->geometry().chunk_size() != claim.spec.chunk_size)
      continue;
    if (parts_.store.IsSettled(key)) return blob;
    if (blob->facts()->root == claim.spec.root) found = std::move(blob);
  }
  return found;
}

// Whether the origin gave it to everybody, as far as is known, or the asker may see the rest too.
bool HomeBlobs::MayGet(const Asked& asked) const {
  const OriginAccess access = parts_.store.AccessOf(asked.blob->key(), asked.origin());
  return access == OriginAccess::kUnknown || MayBeGiven(access, parts_.trust);
}

bool HomeBlobs::IsForAll(const Asked& asked) const {
  const OriginAccess access = parts_.store.AccessOf(asked.blob->key(), asked.origin());
  return IsPublic(access) ||
         (access == OriginAccess::kUnknown && IsPublicSomewhere(*asked.blob, parts_.store));
}

// As IsForAll: by the origin that the asker names, else by the others.
Duration HomeBlobs::PublicAgeOf(const Asked& asked) const {
  const BlobKey& key = asked.blob->key();
  if (IsPublic(parts_.store.AccessOf(key, asked.origin())))
    return parts_.store.PublicAge(key, asked.origin());
  Duration youngest = AccessLedger::kLongAgo;
  const std::shared_ptr<const BlobSpec> facts = asked.blob->facts();
  for (const BlobOrigin& origin : facts->origins) {
    if (IsPublic(parts_.store.AccessOf(key, origin)))
      youngest = std::min(youngest, parts_.store.PublicAge(key, origin));
  }
  return youngest;
}

// The chunk is here: whether the asker may see it, and it is either proven or of the very origin and form
// that the asker names.
bool HomeBlobs::MayGive(const Asked& asked) const {
  const OriginAccess access = parts_.store.AccessOf(asked.blob->key(), asked.origin());
  return (IsForAll(asked) || MayBeGiven(access, parts_.trust)) && IsProvenOrSaidBy(asked);
}

bool HomeBlobs::IsProvenOrSaidBy(const Asked& asked) const {
  return parts_.store.AllProven(*asked.blob, asked.span()) ||
         SaysTheSame(*asked.blob->facts(), asked.request.claim.spec);
}

// Whether the asker may hear that the chunk is on its way. Where members know nothing of each other whoever
// was asked for it knows as much, as does who listens.
bool HomeBlobs::MaySayItComes(const Asked& asked) const {
  return MayGive(asked) || (parts_.trust == PeerTrust::kUnproven && MayGet(asked) && IsProvenOrSaidBy(asked));
}

// By whose right the origin is asked. What this node knows itself goes before what a member says.
Grant HomeBlobs::GrantOf(const Asked& asked) const {
  if (parts_.trust != PeerTrust::kProven) return nullptr;
  const OriginAccess access = parts_.store.AccessOf(asked.blob->key(), asked.origin());
  const bool said_public = asked.request.claim.access == BlobClaim::Access::kPublic;
  if (access == OriginAccess::kUnknown ? said_public : IsPublic(access)) return nullptr;
  if (asked.request.token.empty()) return p2p::PullGrant::OfStranger();
  return p2p::PullGrant::OfToken(asked.request.token);
}

// What the asker may see of the chunk while it comes. Of what is hearsay the first chunk is given when it is
// here: by then it has been held against what was said. And so is a range that ends before its chunk does,
// for which nothing is held back. What a member that knows nothing of this node sends it gives to everybody,
// and so may this node, though it will know only by the proof that the blob is public.
std::shared_ptr<ChunkFlow> HomeBlobs::FlowOf(const Asked& asked) const {
  const ByteRange whole = asked.blob->geometry().RangeOf(asked.chunk.chunk);
  if (asked.request.range.end() != whole.end()) return nullptr;
  if (asked.blob->facts()->is_hearsay && asked.blob->presence().present_count() == 0) return nullptr;
  std::shared_ptr<ChunkFlow> flow;
  if (parts_.flows) flow = parts_.flows->Find(asked.chunk.blob, asked.chunk.chunk);
  if (!flow || flow->length() != whole.length) return nullptr;
  const bool is_open = flow->sender().gives_everybody && MayGet(asked) && IsProvenOrSaidBy(asked);
  return is_open || MayGive(asked) ? flow : nullptr;
}

void HomeBlobs::GivePresent(const AskedPtr& asked) {
  if (!MayGive(*asked)) return RefuseAsOrigin(asked);
  AskForPlace(asked);
}

void HomeBlobs::AskForPlace(const AskedPtr& asked) {
  Spreader::Answer answer;
  {
    const std::lock_guard lock(mutex_);
    answer = parts_.spreader->Ask(asked->ToSpread());
    if (answer.verdict == Spreader::Verdict::kWaitTurn) {
      const std::lock_guard lock_asked(asked->mutex);
      asked->place = answer.id;
      turns_.emplace(answer.id, asked);
    }
  }
  Decided(asked, answer);
}

// --------------------------------------------------------------------------------------------- waiting

// Takes no place of those that are sent the chunk before that is here.
void HomeBlobs::WaitFromStart(const AskedPtr& asked, ReadMode mode) {
  Spreader::Answer answer;
  Task on_wait;
  {
    const std::lock_guard lock(mutex_);
    answer = parts_.spreader->AskEarly(asked->ToSpread());
    if (answer.verdict == Spreader::Verdict::kWait) {
      const std::lock_guard lock_asked(asked->mutex);
      asked->place = answer.id;
      on_wait = std::move(asked->on_wait);
      waiting_.emplace(answer.id, asked);
    }
  }
  if (answer.verdict != Spreader::Verdict::kWait) {
    // Where too many wait nobody knows whether the chunk comes at all.
    if (mode != ReadMode::kFetch) return Refuse(asked, {.why = Why::kAbsent});
    return Decided(asked, answer);
  }
  StartRead(asked, mode);
  GiveUpInTime(asked);
  if (on_wait && mode != ReadMode::kIfAskedFor) std::move(on_wait)();
  // It may have begun to come before this was among those who wait.
  GiveFlowing(asked->chunk);
}

// It does not flow, and may be on its way all the same.
void HomeBlobs::WaitOtherwise(const AskedPtr& asked) {
  if (asked->IsOver()) return LetGo(asked);
  const ReadMode waited = asked->waited;
  GiveBackPlace(asked);
  if (waited == ReadMode::kIfFlowing && ComesBefore(*asked))
    return WaitFromStart(asked, ReadMode::kIfUnderWay);
  if (waited != ReadMode::kIfAskedFor && asked->request.is_sent_on && parts_.flows && MaySayItComes(*asked))
    return WaitFromStart(asked, ReadMode::kIfAskedFor);
  Refuse(asked, {.why = Why::kAbsent});
}

bool HomeBlobs::ComesBefore(const Asked& asked) const {
  if (asked.request.asker.empty() || asked.request.asker == parts_.name) return false;
  const ChunkGeometry& geometry = asked.blob->geometry();
  const uint64_t stripe = geometry.RangeOf(asked.span().first).offset / p2p::StripeBytes(geometry.size());
  return p2p::OutScores(asked.blob->digest(), stripe, parts_.name, asked.request.asker);
}

// What flows takes a place of those that are sent the chunk, for it will be sent as soon as it is here.
void HomeBlobs::WaitForFlow(const AskedPtr& asked) {
  Spreader::Request request = asked->ToSpread();
  request.may_wait_turn = false;
  const Spreader::Answer answer = parts_.spreader->Ask(request);
  // Nothing may flow: who is told to come again would wait in vain, and a home before it asks the origin.
  if (answer.verdict != Spreader::Verdict::kSend) return Refuse(asked, {.why = Why::kAbsent});
  asked->has_place_to_send = true;
  {
    const std::lock_guard lock(asked->mutex);
    asked->place = answer.id;
  }
  StartRead(asked, ReadMode::kIfFlowing);
  // It may take longer than a silence: what is not passed on as it comes is given when it is whole. Not at
  // once: what does not flow is refused as what may not be given is.
  SayWaitingSoon(asked);
}

void HomeBlobs::SayWaitingSoon(const AskedPtr& asked) {
  parts_.io.PostAt(parts_.clock.Now() + kSignOfFlow,
                   [weak = weak_from_this(), weak_asked = std::weak_ptr(asked)] {
                     const auto self = weak.lock();
                     const AskedPtr waiting = weak_asked.lock();
                     if (self && waiting) self->SayWaiting(waiting);
                   });
}

void HomeBlobs::SayWaiting(const AskedPtr& asked) {
  Task on_wait;
  {
    const std::lock_guard lock(asked->mutex);
    if (asked->on_answer) on_wait = std::exchange(asked->on_wait, nullptr);
  }
  if (on_wait) std::move(on_wait)();
}

void HomeBlobs::StartRead(const AskedPtr& asked, ReadMode mode) {
  std::unique_lock lock(asked->mutex);
  asked->waited = mode;
  if (!asked->on_answer) {
    lock.unlock();
    return LetGo(asked);
  }
  // What is fetched for many is not ended with the time of the first of them.
  const Instant now = parts_.clock.Now();
  const Instant deadline = mode == ReadMode::kFetch        ? now + api::kPeerDeadlineMax
                           : mode == ReadMode::kIfAskedFor ? std::min(now + kSoon, asked->request.deadline)
                                                           : asked->request.deadline;
  asked->read =
      parts_.cache.Read({.blob = asked->blob->key(),
                         .range = asked->request.range,
                         .fetch_class = asked->request.fetch_class,
                         .deadline = deadline,
                         .asker = asked->request.role == PeerRole::kZoneHome ? Asker::kZone : Asker::kPeer,
                         .grant = GrantOf(*asked),
                         .mode = mode},
                        [self = shared_from_this(), asked](absl::StatusOr<ReadResult> result) {
                          self->ReadEnded(asked, result.status());
                        });
}

// The first read that gets a chunk decides for all who wait for it.
void HomeBlobs::ReadEnded(const AskedPtr& asked, const absl::Status& status) {
  const bool home = asked->request.role != PeerRole::kPresentOnly;
  if (!status.ok()) {
    if (home && absl::IsDataLoss(status)) DropLie(asked->blob, kDropTries);
    if (!home && absl::IsNotFound(status)) return WaitOtherwise(asked);
    return Refuse(asked, home ? RefusalOf(status, parts_.trust) : PeerRefusal{.why = Why::kAbsent});
  }
  if (asked->has_place_to_send) {
    if (const std::optional<Spreader::RequestId> place = asked->Place()) parts_.spreader->Began(*place);
    return Give(asked);
  }
  Came(asked->chunk, Spreader::Whole::kYes);
}

void HomeBlobs::WatchFlows() {
  if (!parts_.flows) return;
  parts_.flows->Observe([weak = weak_from_this()](const BlobKey& blob, ChunkIndex chunk) {
    if (const auto self = weak.lock()) self->BeginsToCome({blob, chunk});
  });
}

// On the source's thread.
void HomeBlobs::BeginsToCome(const Spreader::ChunkName& chunk) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.empty()) return;
  }
  parts_.io.Post([self = shared_from_this(), chunk] { self->GiveFlowing(chunk); });
}

// To all who wait for it, or to nobody: where some may have it only when it is proven, it is given then.
void HomeBlobs::GiveFlowing(const Spreader::ChunkName& chunk) {
  std::vector<AskedPtr> waiting;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, asked] : waiting_) {
      if (asked->chunk == chunk) waiting.push_back(asked);
    }
  }
  const auto may_have = [this](const AskedPtr& asked) { return FlowOf(*asked) != nullptr; };
  if (waiting.empty() || !std::all_of(waiting.begin(), waiting.end(), may_have)) return;
  // It may have come whole by now.
  const bool present = waiting.front()->blob->presence().AllPresent({chunk.chunk, 1});
  Came(chunk, present ? Spreader::Whole::kYes : Spreader::Whole::kNotYet);
}

void HomeBlobs::Came(const Spreader::ChunkName& chunk, Spreader::Whole whole) {
  std::vector<std::pair<AskedPtr, Spreader::Answer>> decided;
  {
    const std::lock_guard lock(mutex_);
    for (Spreader::Answer& answer : parts_.spreader->Came(chunk, whole)) {
      const auto found = waiting_.find(answer.id);
      if (found == waiting_.end()) continue;
      if (answer.verdict == Spreader::Verdict::kWaitTurn) turns_.emplace(answer.id, found->second);
      decided.emplace_back(std::move(found->second), std::move(answer));
      waiting_.erase(found);
    }
  }
  for (const auto& [waiting, answer] : decided) {
    Decided(waiting, answer);
    // It goes on for who is sent the chunk as it comes; the others come again, or have it from him.
    if (whole == Spreader::Whole::kNotYet && answer.verdict != Spreader::Verdict::kSend) StopReadOf(*waiting);
  }
}

// A helper says nothing meanwhile, and keeps nobody for long.
void HomeBlobs::WaitTurn(const AskedPtr& asked, Spreader::RequestId place, Duration look_again) {
  if (asked->IsOver()) return LetGo(asked);
  const bool home = asked->request.role != PeerRole::kPresentOnly;
  const Instant until =
      std::min(parts_.clock.Now() + (home ? kTurnMax : Spreader::kHelpTurnMax), asked->request.deadline);
  if (home) SayWaiting(asked);
  LookAgain(place, look_again, until);
}

// For what only time brings: one that was told of to others may be named again, and a transfer is stuck.
void HomeBlobs::LookAgain(Spreader::RequestId place, Duration after, Instant until) {
  const Instant when = std::min(parts_.clock.Now() + after, until);
  parts_.io.PostAt(when, [weak = weak_from_this(), place, after, until, is_last = when == until] {
    const auto self = weak.lock();
    if (!self) return;
    AskedPtr asked;
    std::optional<Spreader::Answer> answer;
    {
      const std::lock_guard lock(self->mutex_);
      const auto found = self->turns_.find(place);
      if (found == self->turns_.end()) return;
      answer = self->parts_.spreader->LookAgain(place, is_last);
      if (answer) {
        asked = std::move(found->second);
        self->turns_.erase(found);
      }
    }
    answer ? self->Decided(asked, *answer) : self->LookAgain(place, after, until);
  });
}

void HomeBlobs::GiveTurns(const Spreader::ChunkName& ended) {
  std::vector<std::pair<AskedPtr, Spreader::Answer>> decided;
  {
    const std::lock_guard lock(mutex_);
    for (Spreader::Answer& answer : parts_.spreader->Turned(ended)) {
      const auto found = turns_.find(answer.id);
      decided.emplace_back(std::move(found->second), std::move(answer));
      turns_.erase(found);
    }
  }
  for (const auto& [asked, answer] : decided) Decided(asked, answer);
}

void HomeBlobs::MayGiveTurns(const Spreader::ChunkName& ended) {
  if (parts_.spreader->AnyWaitTurn())
    parts_.io.Post([self = shared_from_this(), ended] { self->GiveTurns(ended); });
}

void HomeBlobs::StopReadOf(Asked& asked) {
  std::optional<ReadId> read;
  {
    const std::lock_guard lock(asked.mutex);
    read = asked.read;
  }
  if (read) parts_.cache.StopRead(*read);
}

void HomeBlobs::Decided(const AskedPtr& asked, const Spreader::Answer& answer) {
  if (answer.verdict == Spreader::Verdict::kWaitTurn) return WaitTurn(asked, answer.id, answer.retry);
  if (answer.verdict != Spreader::Verdict::kSend) {
    {
      const std::lock_guard lock(asked->mutex);
      asked->place.reset();  // it was given back already
    }
    return Refuse(asked, {.why = Why::kBusy, .retry = answer.retry, .helpers = answer.helpers});
  }
  {
    const std::lock_guard lock(asked->mutex);
    asked->place = answer.id;
  }
  Give(asked);
}

// A claim that its origin contradicts is not kept, if nothing came of it. The read that found it out still
// has its lease, and others may read it just now.
void HomeBlobs::DropLie(const std::shared_ptr<Blob>& blob, int tries) {
  parts_.io.PostAt(parts_.clock.Now() + kDropRetry, [self = shared_from_this(), blob, tries] {
    if (!blob->facts()->is_hearsay || blob->presence().present_count() > 0) return;
    const absl::Status evicted = self->parts_.store.Evict(blob->key(), EvictReason::kRequested);
    if (absl::IsFailedPrecondition(evicted) && tries > 1) self->DropLie(blob, tries - 1);
  });
}

// ------------------------------------------------------------------------------------------- answering

void HomeBlobs::Give(const AskedPtr& asked) {
  // Gives the place back when the bytes were sent, or will not be.
  struct Sending {
    Sending(std::shared_ptr<HomeBlobs> the_home, Spreader::ChunkName the_chunk, Spreader::RequestId the_place)
        : home(std::move(the_home)), chunk(the_chunk), place(the_place) {}
    ~Sending() {
      home->parts_.spreader->Ended(place, taken ? Spreader::Outcome::kTaken : Spreader::Outcome::kNotTaken);
      home->MayGiveTurns(chunk);
      if (read) home->parts_.cache.StopRead(*read);
    }
    Sending(const Sending&) = delete;
    Sending& operator=(const Sending&) = delete;

    const std::shared_ptr<HomeBlobs> home;
    const Spreader::ChunkName chunk;
    const Spreader::RequestId place;
    std::optional<ReadId> read;  // for its sake alone, of what is still coming
    bool taken = false;
  };
  const bool home = asked->request.role != PeerRole::kPresentOnly;
  // First, since what has come whole meanwhile is here.
  std::shared_ptr<ChunkFlow> flow = FlowOf(*asked);
  if (!flow && !MayGive(*asked)) return Refuse(asked, {.why = home ? Why::kAskYourself : Why::kAbsent});
  const bool is_for_all = IsForAll(*asked) || (flow && flow->sender().gives_everybody);
  absl::StatusOr<Blob::Lease> lease = parts_.cache.Lookup(asked->blob->key(), asked->request.range);
  if (lease.ok()) {
    flow = nullptr;
  } else if (flow) {
    lease = parts_.store.Acquire(asked->blob->key());
  }
  if (!lease.ok()) return Refuse(asked, home ? Busy(kRetrySoon) : PeerRefusal{.why = Why::kAbsent});
  parts_.store.Touch(asked->blob->key());
  std::shared_ptr<Sending> sending;
  {
    const std::lock_guard lock(asked->mutex);
    if (!asked->on_answer) {
      // Given up meanwhile.
    } else if (asked->place) {
      sending = std::make_shared<Sending>(shared_from_this(), asked->chunk,
                                          *std::exchange(asked->place, std::nullopt));
    }
  }
  if (!sending) return LetGo(asked);
  if (flow) sending->read = ReadAlong(*asked);
  Task on_taken = [sending] { sending->taken = true; };
  std::vector<std::string> passed_on_by;
  if (flow) {
    passed_on_by = flow->sender().passed_on_by;
  } else if (parts_.blame && !parts_.store.AllProven(*asked->blob, asked->span()))
    passed_on_by = parts_.blame->PassedOnBy(*asked->blob, asked->span().first);
  Answer(asked, api::PeerBytes{*std::move(lease), std::move(sending), std::move(on_taken),
                               std::move(passed_on_by), is_for_all, std::move(flow), PublicAgeOf(*asked)});
}

// Whoever is sent what others have asked for keeps it coming, in his class, though they go. Nothing if he
// waited for it himself: that read goes on.
std::optional<ReadId> HomeBlobs::ReadAlong(Asked& asked) {
  {
    const std::lock_guard lock(asked.mutex);
    if (asked.read && asked.waited == ReadMode::kFetch) return std::nullopt;
  }
  const bool home = asked.request.role != PeerRole::kPresentOnly;
  return parts_.cache.Read({.blob = asked.blob->key(),
                            .range = asked.request.range,
                            .fetch_class = asked.request.fetch_class,
                            .deadline = asked.request.deadline,
                            .asker = asked.request.role == PeerRole::kZoneHome ? Asker::kZone : Asker::kPeer,
                            .grant = GrantOf(asked),
                            .mode = home ? ReadMode::kFetch : ReadMode::kIfFlowing},
                           [](const absl::StatusOr<ReadResult>&) {});
}

void HomeBlobs::Refuse(const AskedPtr& asked, PeerRefusal refusal) {
  // The home is still to be asked.
  if (asked->request.role == PeerRole::kZoneHome && refusal.why == Why::kAskYourself)
    refusal = {.why = Why::kAbsent};
  Answer(asked, std::move(refusal));
}

// As one is refused for whom the origin was asked, so that nobody learns what is here.
void HomeBlobs::RefuseAsOrigin(const AskedPtr& asked) {
  if (asked->request.role == PeerRole::kPresentOnly) return Refuse(asked, {.why = Why::kAbsent});
  SayWaiting(asked);
  Refuse(asked, {.why = Why::kAskYourself});
}

void HomeBlobs::Answer(const AskedPtr& asked, PeerBlobAnswer answer) {
  OnAnswer on_answer;
  {
    const std::lock_guard lock(asked->mutex);
    on_answer = std::exchange(asked->on_answer, nullptr);
  }
  LetGo(asked);
  if (on_answer) std::move(on_answer)(std::move(answer));
}

void HomeBlobs::GiveUpInTime(const AskedPtr& asked) {
  parts_.io.PostAt(asked->request.deadline, [weak = weak_from_this(), weak_asked = std::weak_ptr(asked)] {
    const auto self = weak.lock();
    const AskedPtr late = weak_asked.lock();
    if (self && late) self->GiveUp(late);
  });
}

// The asker has gone, or its time is up. What has begun to come is brought in all the same: others may be
// sent it as it comes.
void HomeBlobs::GiveUp(const AskedPtr& asked) {
  std::optional<ReadId> read;
  {
    const std::lock_guard lock(asked->mutex);
    if (asked->on_answer) read = asked->read;
  }
  if (read) parts_.cache.StopRead(*read);
  Refuse(asked, Busy(kRetrySoon));
}

// Before the chunk is here.
void HomeBlobs::GiveBackPlace(const AskedPtr& asked) {
  asked->has_place_to_send = false;
  LetGo(asked);
}

// Gives back what a request holds.
void HomeBlobs::LetGo(const AskedPtr& asked) {
  std::optional<Spreader::RequestId> place;
  {
    const std::lock_guard lock(asked->mutex);
    place = std::exchange(asked->place, std::nullopt);
  }
  if (!place) return;
  {
    const std::lock_guard lock(mutex_);
    waiting_.erase(*place);
    turns_.erase(*place);
    // Under the lock: who is told of its turn is in the table.
    parts_.spreader->Ended(*place, Spreader::Outcome::kNotTaken);
  }
  MayGiveTurns(asked->chunk);
}

}  // namespace sluice
