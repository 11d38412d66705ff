#include "p2p/cluster/member_source.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/chunk_flow.h"
#include "p2p/registry/pull_grant.h"

namespace sluice::p2p {
namespace {

using std::chrono::milliseconds;

// The time before a helper is asked, so that those who were told of it don't come all at once.
constexpr Duration kDemandJitter = milliseconds(1);
constexpr Duration kFillJitterMin = milliseconds(5);
constexpr Duration kFillJitterMax = milliseconds(20);
// A home is asked again after what it said, doubled per refusal, and no more than this.
constexpr Duration kDemandRetryMax = milliseconds(15);
constexpr Duration kFillRetryMax = milliseconds(250);
constexpr Duration kRetryMin = milliseconds(1);
// So long a reader waits for the first byte of what was asked for as a fill.
constexpr Duration kFillWaitsForReader = milliseconds(20);

// So long one that is asked for what it has may be quiet where others wait for this node, which asks the
// registry next: who is there says at once what it lacks. (Of 500 simulated nodes of which a tenth vanished,
// those that stood in for homes asked up to three of them one after the other, half a second each.)
constexpr Duration kQuietMax = milliseconds(100);

// Whoever was named so long ago may have vanished, or be busy: who named them knows better by now.
constexpr Duration kNamedLast = milliseconds(250);

class MemberFetch;

// One chunk on its way.
struct Errand {
  ChunkIndex index;
  ChunkInflow bytes;
  size_t origin = 0;                                        // by the right of which it is asked for
  std::shared_ptr<PeerClient::ChunkQuestion::Vouch> vouch;  // of who is asked
  std::vector<Member> helpers;                              // not asked yet; the next is the last
  Instant helpers_named{};
  std::vector<std::string> asked;  // helpers, since the member was
  std::vector<std::string> failed;
  bool delivered = false;   // all that was asked for
  bool broke_off = false;   // what the member passed on as it came
  bool asked_anew = false;  // of the member, after that
  bool is_paid = false;     // of the budget of bytes, for the next request
  int refusals = 0;
  Duration retry_after{};
  bool patience = false;      // the member said last that the origin asks for it
  bool may_be_quiet = false;  // who is asked, for kQuietMax; it has given no sign yet
  std::string token;          // that the home is shown
  bool renewed = false;
  // Guarded by the fetch's mutex: the last request, and while it is under way its number.
  uint64_t request = 0;
  std::optional<PeerClient::RequestId> under_way;
  uint64_t answered = 0;
  bool is_fill = false;    // it was asked for as one, and has brought nothing yet
  bool overtaken = false;  // it was cancelled, to be asked for as what a reader waits for
  // The same: the last time that it was put off, and while it is what comes then.
  uint64_t put_off = 0;
  void (MemberFetch::*next)(const std::shared_ptr<Errand>&) = nullptr;
};

bool IsAmong(const std::vector<Member>& members, const std::string& name) {
  return std::any_of(members.begin(), members.end(),
                     [&](const Member& member) { return member.name == name; });
}

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

using ErrandPtr = std::shared_ptr<Errand>;

std::string NotAskedFor(const std::string& member, Duration skip, const std::string& why) {
  return absl::StrCat("member ", member, " is not asked for ",
                      std::chrono::duration_cast<std::chrono::seconds>(skip).count(), " s: ", why);
}

// One fetch, until its OnDone. Begins on the pool; answers and timers come on the client's thread, where a
// chunk's steps follow each other.
class MemberFetch final : public FetchControl, public std::enable_shared_from_this<MemberFetch> {
 public:
  MemberFetch(const MemberAccess& access, Member member, PeerRole role, FetchRequest request,
              ChunkSource::OnChunk on_chunk, ChunkSource::OnDone on_done)
      : access_(access),
        member_(std::move(member)),
        role_(role),
        request_(std::move(request)),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)),
        facts_(request_.blob->facts()) {}

  void Start() {
    if (facts_->origins.empty() || (!facts_->root && access_.unsealed == Unsealed::kFromRegistry))
      return RefuseUnproven();
    if (access_.unsealed == Unsealed::kFromMembers) return Begin();
    access_.await_recipe(request_.blob, member_.name, [self = shared_from_this()](bool provable) {
      provable ? self->Begin() : self->RefuseUnproven();
    });
  }

  // A member lets a fill wait longer than it would a reader, and can't be told on the way: what has brought
  // nothing soon is asked for anew. Not at once: that costs a connection.
  void Raise(FetchClass fetch_class) override {
    std::vector<std::pair<Duration, Task>> soon;
    {
      const std::lock_guard lock(mutex_);
      fetch_class_ = std::min(fetch_class_, fetch_class);
      for (const ErrandPtr& errand : errands_) {
        if (errand->next && !IsFill(fetch_class_)) {
          soon.emplace_back(Duration(0), EndOfPutOff(errand, errand->put_off));
        } else if (errand->under_way) {
          access_.client.Raise(*errand->under_way, fetch_class);
          if (errand->is_fill && !IsFill(fetch_class_))
            soon.emplace_back(kFillWaitsForReader, Overtaking(errand, errand->request));
        }
      }
    }
    for (auto& [delay, task] : soon) access_.client.After(delay, std::move(task));
  }

  void Cancel() override {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (const ErrandPtr& errand : errands_) {
      if (errand->under_way) access_.client.Cancel(*errand->under_way);
    }
  }

 private:
  using Step = void (MemberFetch::*)(const ErrandPtr&);

  // A reader of this host has asked for the recipe elsewhere, too, when it mounted the image.
  void RefuseUnproven() {
    if (request_.asker == Asker::kLocal)
      access_.not_carried(*request_.blob, request_.asker, "", MemberSource::kWithoutRecipe);
    std::move(on_done_)(absl::FailedPreconditionError(absl::StrCat(
        "blob ", request_.blob->digest().ToString(), " has no recipe to prove what members send")));
  }

  void Begin() {
    open_ = request_.chunks.count;
    std::vector<ErrandPtr> errands;
    for (ChunkIndex index = request_.chunks.first; index < request_.chunks.end(); index = index.next()) {
      errands.push_back(std::make_shared<Errand>());
      errands.back()->index = index;
    }
    {
      const std::lock_guard lock(mutex_);
      errands_ = errands;
    }
    for (const ErrandPtr& errand : errands) AskMember(errand);
  }

  const BlobOrigin& OriginOf(const Errand& errand) const { return facts_->origins[errand.origin]; }

  void AskMember(const ErrandPtr& errand) {
    if (!access_.health.Usable(member_, access_.clock.Now()))
      return End(absl::UnavailableError(absl::StrCat("member ", member_.name, " has failed meanwhile")));
    if (AwaitsBudget(errand, &MemberFetch::AskMember)) return;
    Ask(errand, member_, role_, Asked::kItself,
        [this, errand](PeerClient::ChunkOutcome outcome) { OnMember(errand, std::move(outcome)); });
  }

  uint64_t LengthOf(const Errand& errand) const {
    return request_.blob->geometry().RangeOf(errand.index).length;
  }

  // Whether `step` comes later, since the budget of bytes is used up.
  bool AwaitsBudget(const ErrandPtr& errand, Step step) {
    if (std::exchange(errand->is_paid, true)) return false;
    const Duration wait = access_.download.Take(LengthOf(*errand), Wanted().second);
    if (wait == Duration()) return false;
    Later(wait, errand, step);
    return true;
  }
  // What did not come of it.
  void GiveBackBudget(Errand& errand) {
    if (std::exchange(errand.is_paid, false))
      access_.download.GiveBack(LengthOf(errand) - errand.bytes.filled());
  }

  void AskHelper(const ErrandPtr& errand) {
    if (AwaitsBudget(errand, &MemberFetch::AskHelper)) return;
    const Member helper = std::move(errand->helpers.back());
    errand->helpers.pop_back();
    errand->asked.push_back(helper.name);
    Ask(errand, helper, PeerRole::kPresentOnly, Asked::kAsHelper,
        [this, errand, name = helper.name](PeerClient::ChunkOutcome outcome) {
          OnHelper(errand, name, std::move(outcome));
        });
  }

  // Whether another has named it.
  enum class Asked { kItself, kAsHelper };
  void Ask(const ErrandPtr& errand, const Member& member, PeerRole role, Asked how,
           PeerClient::OnChunkDone then) {
    const auto [cancelled, fetch_class] = Wanted();
    errand->delivered = false;
    if (cancelled || access_.clock.Now() >= request_.deadline) {
      GiveBackBudget(*errand);
      return End(cancelled ? absl::CancelledError("nobody wants it any more") : TooLate());
    }
    errand->vouch = std::make_shared<PeerClient::ChunkQuestion::Vouch>();
    errand->may_be_quiet = role == PeerRole::kPresentOnly && how == Asked::kItself &&
                           (IsFill(fetch_class) || request_.asker != Asker::kLocal);
    const PeerClient::ChunkQuestion question{
        &OriginOf(*errand),
        facts_.get(),
        AccessTo(OriginOf(*errand)),
        request_.blob->geometry().RangeOf(errand->index),
        role,
        fetch_class,
        request_.deadline,
        absl::StrJoin(errand->failed, ","),
        how == Asked::kAsHelper && !IsFill(fetch_class),
        errand->vouch,
        role != PeerRole::kPresentOnly ? TokenFor(*errand) : std::string(),
        OnAccess(OriginOf(*errand)),
        errand->may_be_quiet ? kQuietMax : Duration(0)};
    const uint64_t request = NoteBegun(*errand, fetch_class);
    const PeerClient::RequestId id = access_.client.ReadChunk(
        member, question,
        [self = shared_from_this(), errand, member](std::span<const std::byte> bytes) {
          self->OnData(*errand, bytes, member);
        },
        [self = shared_from_this(), errand](bool patience) {
          errand->may_be_quiet = false;
          self->request_.progress->Sign(patience);
        },
        [self = shared_from_this(), errand, request, member, role, how,
         then = std::move(then)](PeerClient::ChunkOutcome outcome) mutable {
          const bool overtaken = self->NoteAnswered(*errand, request);
          if (!errand->delivered) self->request_.progress->BreaksOff();
          if (overtaken && absl::IsCancelled(outcome.status) && !errand->delivered) {
            errand->bytes = ChunkInflow();
            return self->Ask(errand, member, role, how, std::move(then));
          }
          self->GiveBackBudget(*errand);
          errand->broke_off = errand->vouch->coming && absl::IsUnavailable(outcome.status);
          // Whoever is passed on what came is to ask elsewhere, too.
          errand->bytes = ChunkInflow();
          std::move(then)(std::move(outcome));
        });
    NoteAsked(errand, request, id);
  }

  BlobClaim::Access AccessTo(const BlobOrigin& origin) const {
    const OriginAccess known = access_.ledger.AccessOf(request_.blob->key(), origin);
    const bool found = known == OriginAccess::kUnknown && access_.is_public && access_.is_public(origin);
    return IsPublic(known) || found ? BlobClaim::Access::kPublic : BlobClaim::Access::kNotPublic;
  }

  bool IsOfZone() const { return request_.asker == Asker::kZone; }

  const std::string& TokenFor(Errand& errand) const {
    const BlobOrigin& origin = OriginOf(errand);
    // Who asks by another's right shows that one's.
    if (IsOfZone() || request_.grant) {
      errand.token = request_.grant ? PullGrant::TokenForMembers(request_.grant) : std::string();
    } else if (access_.tokens && errand.token.empty() && AccessTo(origin) == BlobClaim::Access::kNotPublic)
      errand.token = access_.tokens->Kept(origin);
    return errand.token;
  }

  // Before any chunk can be committed, so that none is ever taken for public that is not. That it is public
  // counts when the bytes have been proven (Judge).
  std::function<void(OriginAccess)> OnAccess(const BlobOrigin& origin) const {
    if (!access_.tokens) return nullptr;
    return [&ledger = access_.ledger, key = request_.blob->key(), origin](OriginAccess access) {
      if (!IsPublic(access)) ledger.NoteAccess(key, origin, OriginAccess::kCredentials);
    };
  }

  std::pair<bool, FetchClass> Wanted() {
    const std::lock_guard lock(mutex_);
    return {cancelled_, fetch_class_};
  }

  uint64_t NoteBegun(Errand& errand, FetchClass fetch_class) {
    const std::lock_guard lock(mutex_);
    errand.is_fill = IsFill(fetch_class);
    return ++errand.request;
  }
  // By now it may have been answered, cancelled or raised.
  void NoteAsked(const ErrandPtr& errand, uint64_t request, PeerClient::RequestId id) {
    bool is_late = false;
    {
      const std::lock_guard lock(mutex_);
      if (errand->answered >= request) return;
      errand->under_way = id;
      if (cancelled_) access_.client.Cancel(id);
      access_.client.Raise(id, fetch_class_);
      is_late = errand->is_fill && !IsFill(fetch_class_);
    }
    if (is_late) access_.client.After(kFillWaitsForReader, Overtaking(errand, request));
  }
  // Whether it was cancelled to be asked for anew.
  bool NoteAnswered(Errand& errand, uint64_t request) {
    const std::lock_guard lock(mutex_);
    errand.answered = request;
    errand.under_way.reset();
    return std::exchange(errand.overtaken, false);
  }
  Task Overtaking(const ErrandPtr& errand, uint64_t request) {
    return [self = shared_from_this(), errand, request] {
      const std::lock_guard lock(self->mutex_);
      if (!errand->under_way || errand->request != request || !errand->is_fill) return;
      errand->is_fill = false;
      errand->overtaken = true;
      self->access_.client.Cancel(*errand->under_way);
    };
  }

  void OnData(Errand& errand, std::span<const std::byte> bytes, const Member& member) {
    request_.progress->Add(bytes.size());
    errand.may_be_quiet = false;
    if (errand.bytes.filled() == 0) {
      NoteFlows(errand);
      errand.bytes = ChunkInflow(request_.flows, request_.blob->key(), errand.index, LengthOf(errand),
                                 {HadBy(member, *errand.vouch), /*gives_everybody=*/!access_.tokens});
    }
    errand.bytes.Add(bytes);
    if (!errand.bytes.IsWhole()) return;
    errand.delivered = true;
    access_.health.Received(member.name, errand.bytes.filled(), access_.clock.Now());
    on_chunk_(errand.index, errand.bytes.Take(),
              access_.blame.IdOf({member, TagOf(OriginOf(errand)), errand.vouch->verified,
                                  errand.vouch->passed_on, access_.clock.Now() - errand.vouch->public_age}));
  }

  void NoteFlows(Errand& errand) {
    const std::lock_guard lock(mutex_);
    errand.is_fill = false;
  }

  // Who had the bytes first, as far as it is known: the last of a chain is who is blamed, and one name keeps
  // apart no more senders than there are members.
  static std::vector<std::string> HadBy(const Member& member, const PeerClient::ChunkQuestion::Vouch& vouch) {
    if (vouch.verified || vouch.passed_on.empty()) return {member.name};
    return {vouch.passed_on.back()};
  }

  void OnMember(const ErrandPtr& errand, PeerClient::ChunkOutcome outcome) {
    NoteOutcome(*errand, member_, outcome.status);
    // An answer may go wrong after its last byte.
    if (outcome.status.ok() || errand->delivered) return CloseOne();
    if (absl::IsResourceExhausted(outcome.status)) {
      errand->patience = outcome.patience;
      request_.progress->Sign(outcome.patience);
      return AskOthers(errand, std::move(outcome));
    }
    // Its own source has ended, and it has the chunk anew, or will.
    if (errand->broke_off && !std::exchange(errand->asked_anew, true)) {
      request_.progress->Sign(errand->patience);
      return Later(kRetryMin, errand, &MemberFetch::AskMember);
    }
    if (absl::IsUnauthenticated(outcome.status) && outcome.takes_credentials && access_.tokens &&
        role_ != PeerRole::kPresentOnly && !IsOfZone() && !request_.grant &&
        !std::exchange(errand->renewed, true)) {
      return RenewToken(errand, std::move(outcome.status));
    }
    if (absl::IsUnauthenticated(outcome.status))
      access_.not_carried(*request_.blob, request_.asker, member_.name, MemberSource::kAskYourself);
    if (absl::IsNotFound(outcome.status) && role_ == PeerRole::kPresentOnly) {
      // What it lacks by one name it may have by another.
      if (NextOrigin(*errand)) return AskMember(errand);
      access_.lacks(*request_.blob, member_.name);
    }
    End(std::move(outcome.status));
  }

  // None was shown, or it has expired on the way, or it is not good for that.
  void RenewToken(const ErrandPtr& errand, absl::Status refused) {
    request_.progress->Sign();
    access_.tokens->Renew(OriginOf(*errand), errand->token,
                          [self = shared_from_this(), errand,
                           refused = std::move(refused)](absl::StatusOr<std::string> token) mutable {
                            if (token.ok()) {
                              errand->token = *std::move(token);
                              return self->Later(Duration(0), errand, &MemberFetch::AskMember);
                            }
                            self->access_.not_carried(*self->request_.blob, self->request_.asker, "",
                                                      MemberSource::kAskYourself);
                            self->End(std::move(refused));
                          });
  }

  bool NextOrigin(Errand& errand) const {
    return ++errand.origin < std::min(MemberSource::kOriginsAskedMax, facts_->origins.size());
  }

  void AskOthers(const ErrandPtr& errand, PeerClient::ChunkOutcome outcome) {
    errand->asked.clear();
    errand->helpers.clear();
    errand->helpers = MembersNamed(outcome.helpers, *errand);
    errand->helpers_named = access_.clock.Now();
    // Who names others is not asked in vain.
    errand->refusals = errand->helpers.empty() ? errand->refusals + 1 : 0;
    const Duration longest = IsForReader() ? kDemandRetryMax : kFillRetryMax;
    const Duration doubled = outcome.retry_after * (1 << std::clamp(errand->refusals - 1, 0, 8));
    errand->retry_after = std::clamp(doubled, kRetryMin, longest);
    NextHelper(errand);
  }

  // Helpers are members: whoever else is named is nobody's concern. The first that is named is to be asked
  // first: who names them tells each of as few as it can send to.
  std::vector<Member> MembersNamed(const std::vector<std::string>& names, const Errand& errand) const {
    std::vector<Member> found;
    const std::shared_ptr<const MemberView> view = access_.members.view();
    for (const std::string& name : names) {
      const auto member =
          std::lower_bound(view->members.begin(), view->members.end(), name,
                           [](const Member& m, const std::string& wanted) { return m.name < wanted; });
      if (member == view->members.end() || member->name != name || member->is_self) continue;
      if (Contains(errand.failed, name) || Contains(errand.asked, name)) continue;
      if (IsAmong(errand.helpers, name)) continue;
      if (access_.health.Usable(*member, access_.clock.Now())) found.push_back(*member);
    }
    std::reverse(found.begin(), found.end());
    return found;
  }

  void OnHelper(const ErrandPtr& errand, const std::string& name, PeerClient::ChunkOutcome outcome) {
    if (outcome.status.ok() || errand->delivered) {
      access_.health.Succeeded(name);
      return CloseOne();
    }
    if (absl::IsCancelled(outcome.status) || absl::IsDeadlineExceeded(outcome.status))
      return End(std::move(outcome.status));
    request_.progress->Sign(errand->patience);
    if (!absl::IsResourceExhausted(outcome.status)) errand->failed.push_back(name);
    // One that is busy may know who has it from it.
    if (IsForReader() && absl::IsResourceExhausted(outcome.status) &&
        errand->asked.size() < MemberSource::kHelpersMax) {
      for (Member& member : MembersNamed(outcome.helpers, *errand))
        errand->helpers.push_back(std::move(member));
    }
    if (!absl::IsNotFound(outcome.status) && !absl::IsResourceExhausted(outcome.status))
      NoteFailure(*errand, name, outcome.status);
    NextHelper(errand);
  }

  void NextHelper(const ErrandPtr& errand) {
    const Instant now = access_.clock.Now();
    if (errand->helpers_named + kNamedLast <= now) errand->helpers.clear();
    std::erase_if(errand->helpers, [&](const Member& helper) { return !access_.health.Usable(helper, now); });
    if (errand->helpers.empty() || errand->failed.size() >= MemberSource::kFailuresMax) {
      if (errand->failed.size() >= MemberSource::kFailuresMax) errand->failed.clear();
      // A fill that comes too early comes in vain; a reader may be lucky.
      const double part = IsForReader() ? access_.random() : (1 + access_.random()) / 2;
      const Duration wait = std::chrono::duration_cast<Duration>(errand->retry_after * part);
      return Later(wait, errand, &MemberFetch::AskMember);
    }
    const double random = access_.random();
    const Duration jitter = std::chrono::duration_cast<Duration>(
        IsForReader() ? kDemandJitter * random : kFillJitterMin + (kFillJitterMax - kFillJitterMin) * random);
    Later(jitter, errand, &MemberFetch::AskHelper);
  }

  void Later(Duration delay, const ErrandPtr& errand, Step step) {
    uint64_t number = 0;
    {
      const std::lock_guard lock(mutex_);
      number = ++errand->put_off;
      errand->next = step;
      if (!IsFill(fetch_class_)) delay = std::min(delay, kDemandRetryMax);
    }
    access_.client.After(delay, EndOfPutOff(errand, number));
  }

  // Goes on with it, unless that was done already. A client that is stopped drops what waits for its time.
  Task EndOfPutOff(const ErrandPtr& errand, uint64_t number) {
    auto dropped = absl::MakeCleanup([self = shared_from_this(), errand, number] {
      if (self->TakeNext(*errand, number))
        self->End(absl::CancelledError("the node stops asking other nodes"));
    });
    return [self = shared_from_this(), errand, number, dropped = std::move(dropped)]() mutable {
      std::move(dropped).Cancel();
      if (const Step step = self->TakeNext(*errand, number)) (self.get()->*step)(errand);
    };
  }

  Step TakeNext(Errand& errand, uint64_t number) {
    const std::lock_guard lock(mutex_);
    return errand.put_off == number ? std::exchange(errand.next, nullptr) : nullptr;
  }

  bool IsForReader() { return !IsFill(Wanted().second); }

  void NoteOutcome(const Errand& errand, const Member& member, const absl::Status& status) {
    if (absl::IsPermissionDenied(status)) return access_.members.NoteSelf(member.name);
    const bool answered = status.ok() || absl::IsNotFound(status) || absl::IsResourceExhausted(status) ||
                          absl::IsUnauthenticated(status) || absl::IsFailedPrecondition(status);
    if (answered) return access_.health.Succeeded(member.name);
    if (!absl::IsDeadlineExceeded(status) && !absl::IsCancelled(status))
      NoteFailure(errand, member.name, status);
  }

  void NoteFailure(const Errand& errand, const std::string& name, const absl::Status& status) {
    const Instant now = access_.clock.Now();
    const std::string why(status.message());
    const Duration skip = errand.may_be_quiet ? access_.health.WasQuiet(name, now, why)
                          : errand.broke_off  ? access_.health.BrokeOff(name, now, why)
                                              : access_.health.Failed(name, now, why);
    if (skip == Duration(0)) return;
    access_.warn(NotAskedFor(name, skip, why));
  }

  absl::Status TooLate() const {
    return absl::DeadlineExceededError(absl::StrCat("member ", member_.name, " was busy until the deadline"));
  }

  // One chunk can't be had here; the others go on.
  void End(absl::Status status) {
    {
      const std::lock_guard lock(mutex_);
      if (ended_.ok()) ended_ = std::move(status);
    }
    CloseOne();
  }

  void CloseOne() {
    if (--open_ > 0) return;
    absl::Status status;
    {
      const std::lock_guard lock(mutex_);
      status = std::move(ended_);
    }
    std::move(on_done_)(std::move(status));
  }

  const MemberAccess& access_;
  const Member member_;
  const PeerRole role_;
  const FetchRequest request_;
  ChunkSource::OnChunk on_chunk_;
  ChunkSource::OnDone on_done_;
  const std::shared_ptr<const BlobSpec> facts_;

  std::atomic<uint32_t> open_{0};  // chunks

  std::mutex mutex_;  // guards what follows
  std::vector<ErrandPtr> errands_;
  bool cancelled_ = false;
  FetchClass fetch_class_ = request_.fetch_class;
  absl::Status ended_;
};

}  // namespace

FetchHandle MemberSource::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  auto fetch = std::make_shared<MemberFetch>(access_, member_, role_, std::move(request), std::move(on_chunk),
                                             std::move(on_done));
  // Looking for the recipe may block on disk.
  access_.io.Post([fetch] { fetch->Start(); });
  return FetchHandle(std::move(fetch));
}

void MemberSource::Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) {
  if (verdict == Verdict::kWrong) return access_.blame.SentWrong(sender, blob, index);
  NoteAccess(sender, blob);
  access_.blame.Right(blob, index);
}

// Members that are believed without a proof are believed in this, too.
void MemberSource::KeptUnproven(SenderId sender, const Blob& blob, ChunkIndex index,
                                std::span<const std::byte> bytes) {
  access_.blame.Unproven(sender, blob, index, bytes);
  NoteAccess(sender, blob);
}

void MemberSource::NoteOutrun(bool stalled) {
  access_.health.NoteOutrun(member_.name);
  // Who is asked for what it has may wait for the same source as this node does.
  if (!stalled || role_ == PeerRole::kPresentOnly) return;
  const std::string why = "it gave nothing of what another gave meanwhile";
  const Duration skip = access_.health.Stalled(member_.name, access_.clock.Now(), why);
  if (skip > Duration(0)) access_.warn(NotAskedFor(member_.name, skip, why));
}

// Only who has the blob can give a chunk of it: before it was proven its word counted for nothing.
void MemberSource::NoteAccess(SenderId sender, const Blob& blob) {
  const std::optional<ChunkSender> known = access_.blame.Find(sender);
  if (!known) return;
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  const auto is_named = [&](const BlobOrigin& origin) { return TagOf(origin) == known->origin; };
  const auto named = std::find_if(facts->origins.begin(), facts->origins.end(), is_named);
  // Of two with one tag nobody knows which it was.
  if (std::count_if(facts->origins.begin(), facts->origins.end(), is_named) == 1)
    access_.ledger.NoteHearsay(blob.key(), *named, access_.clock.Now() - known->public_since);
}

}  // namespace sluice::p2p
