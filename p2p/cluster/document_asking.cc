#include "p2p/cluster/document_asking.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sluice::p2p {
namespace {

// A busy member is asked again after what it said, doubled each time, and no more: of a thousand each asks.
constexpr Duration kRetryMin = std::chrono::milliseconds(5);
constexpr Duration kRetryMax = std::chrono::milliseconds(250);
// Of holders nobody is waited for longer that is only busy: there is a home.
constexpr Duration kBusyHoldersMax = std::chrono::seconds(2);
// So many are asked that a member has named, before it is asked itself again.
constexpr size_t kHelpersMax = 4;
// So many helpers that were of no use are told of; those before them may have it by now.
constexpr size_t kTriedMax = 5;
// In all: who names others without end is not followed.
constexpr size_t kCandidatesMax = 64;

double RandomFraction() {
  thread_local absl::BitGen random;
  return absl::Uniform(random, 0.0, 1.0);
}

}  // namespace

void DocumentAsking::Ask(Parts parts, std::vector<Member> members, Wanted wanted, Done done) {
  const std::shared_ptr<DocumentAsking> asking(
      new DocumentAsking(std::move(parts), std::move(members), std::move(wanted), std::move(done)));
  if (asking->wanted_.of == Of::kHolders) asking->LookAgainAt(asking->until_);
  asking->Step();
}

DocumentAsking::DocumentAsking(Parts parts, std::vector<Member> members, Wanted wanted, Done done)
    : parts_(std::move(parts)),
      wanted_(std::move(wanted)),
      until_(parts_.clock.Now() + wanted_.patience),
      busy_until_(wanted_.of == Of::kHomes ? until_ : std::min(until_, parts_.clock.Now() + kBusyHoldersMax)),
      done_(std::move(done)) {
  for (Member& member : members) candidates_.push_back({std::move(member)});
  for (size_t i = candidates_.size(); i > 0; --i) queue_.push_back(i - 1);
  token_ = wanted_.token;
  if (wanted_.origin && token_.empty() && parts_.tokens) token_ = parts_.tokens->Kept(*wanted_.origin);
}

// Asks the next one, unless somebody who was asked may still give it.
void DocumentAsking::Step() {
  std::optional<size_t> next;
  Instant look_again = Instant::max();
  {
    const std::lock_guard lock(mutex_);
    const Instant now = parts_.clock.Now();
    if (!done_) return;
    if (wanted_.of == Of::kHomes || now < until_) {
      if (IsAnyHope(now)) return;
      next = TakeNext(now, &look_again);
      if (next) {
        Candidate& candidate = candidates_[*next];
        candidate.asked = now;
        candidate.heard = candidate.answered = candidate.noted = false;
        if (!candidate.is_helper) named_.clear();
        look_again = now + parts_.late_after;
      } else if (look_again == Instant::max() && wanted_.of == Of::kHomes && IsAnyAsked()) {
        return;  // until those are silent for good
      }
    }
  }
  if (look_again == Instant::max()) {
    const bool no_home_answered = wanted_.of == Of::kHomes && !candidates_.empty();
    return Finish(no_home_answered ? absl::UnavailableError(NotGiven().message()) : NotGiven());
  }
  if (!next) return WaitUntil(look_again);
  LookAgainAt(look_again);
  Put(*next);
}

// REQUIRES: mutex_ is held
bool DocumentAsking::IsAnyAsked() const {
  return std::any_of(candidates_.begin(), candidates_.end(),
                     [](const Candidate& candidate) { return candidate.asked && !candidate.answered; });
}

// REQUIRES: mutex_ is held
bool DocumentAsking::IsAnyHope(Instant now) const {
  return std::any_of(candidates_.begin(), candidates_.end(), [&](const Candidate& candidate) {
    return candidate.asked && !candidate.answered &&
           (candidate.heard || now < *candidate.asked + parts_.late_after);
  });
}

// Homes strictly in their order: the next would ask the registry beside. Of holders whoever may be asked.
// REQUIRES: mutex_ is held
std::optional<size_t> DocumentAsking::TakeNext(Instant now, Instant* look_again) {
  for (auto next = queue_.rbegin(); next != queue_.rend(); ++next) {
    const size_t index = *next;
    if (candidates_[index].not_before <= now) {
      queue_.erase(std::next(next).base());
      return index;
    }
    *look_again = std::min(*look_again, candidates_[index].not_before);
    if (wanted_.of == Of::kHomes) break;
  }
  return std::nullopt;
}

// Nothing is under way by which this lives. A client that is stopped drops what waits for its time.
void DocumentAsking::WaitUntil(Instant when) {
  auto dropped = absl::MakeCleanup([self = shared_from_this()] {
    self->Finish(absl::CancelledError("the node stops asking other nodes"));
  });
  parts_.client.After(when - parts_.clock.Now(),
                      [self = shared_from_this(), dropped = std::move(dropped)]() mutable {
                        std::move(dropped).Cancel();
                        self->Step();
                      });
}

void DocumentAsking::LookAgainAt(Instant when) {
  parts_.io.PostAt(when, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Step();
  });
}

void DocumentAsking::Put(size_t index) {
  PeerClient::Question question{.path_and_query = wanted_.path, .bytes_max = wanted_.bytes_max};
  Member member;
  bool is_helper = false;
  {
    const std::lock_guard lock(mutex_);
    member = candidates_[index].member;
    is_helper = candidates_[index].is_helper;
    const bool is_home = IsHome(index);
    question.role = is_home ? PeerRole::kHome : PeerRole::kPresentOnly;
    if (is_home) question.token = token_;
    question.is_spread = wanted_.is_spread;
    if (!is_helper) question.tried = absl::StrJoin(tried_, ",");
  }
  // Who is slow leaves time for the next.
  const Duration left = std::max(Duration(1), until_ - parts_.clock.Now());
  question.timeout = is_helper ? left / 4 : wanted_.of == Of::kHomes ? wanted_.patience : left / 2;
  question.on_sign = [weak = weak_from_this(), index] {
    if (const auto self = weak.lock()) self->Heard(index);
  };
  parts_.client.Ask(member, question,
                    [self = shared_from_this(), index](absl::StatusOr<PeerClient::Answer> answer) {
                      self->Answered(index, std::move(answer));
                    });
}

void DocumentAsking::Heard(size_t index) {
  const std::lock_guard lock(mutex_);
  candidates_[index].heard = true;
}

void DocumentAsking::Answered(size_t index, absl::StatusOr<PeerClient::Answer> answer) {
  // A client that is stopped answers in the call.
  if (!answer.ok()) return Failed(index, answer.status());
  Heard(index);
  // Hashing takes its time.
  parts_.io.Post([self = shared_from_this(), index, answer = *std::move(answer)]() mutable {
    absl::Status checked = self->wanted_.check(answer);
    if (!checked.ok()) return self->Failed(index, std::move(checked));
    std::string name;
    {
      const std::lock_guard lock(self->mutex_);
      name = self->candidates_[index].member.name;
    }
    self->parts_.health.Succeeded(name);
    self->Finish(std::move(answer));
  });
}

void DocumentAsking::Failed(size_t index, absl::Status why) {
  if (absl::IsCancelled(why)) return Finish(std::move(why));
  Member member;
  bool is_home = false, is_noted = false;
  {
    const std::lock_guard lock(mutex_);
    member = candidates_[index].member;
    is_noted = candidates_[index].noted;
    is_home = IsHome(index);
  }
  if (!is_noted) Note(member, is_home, why);
  if (is_home && MayRenewToken(why)) return RenewToken(index);
  if (is_home && (absl::IsUnauthenticated(why) || absl::IsNotFound(why))) return Finish(NotGiven());
  const std::optional<PeerClient::Busy> busy = PeerClient::BusyOf(why);
  {
    const std::lock_guard lock(mutex_);
    Candidate& candidate = candidates_[index];
    candidate.answered = true;
    if (busy && wanted_.is_spread && parts_.clock.Now() < busy_until_) {
      PutOff(index, *busy);
    } else if (candidate.is_helper) {
      NoteTried(member.name);
    }
  }
  Step();
}

// REQUIRES: mutex_ is held
void DocumentAsking::NoteTried(const std::string& helper) {
  if (tried_.size() == kTriedMax) tried_.clear();
  tried_.push_back(helper);
}

// Those that it names are asked first, in its order, each once; then it once more. REQUIRES: mutex_ is held
void DocumentAsking::PutOff(size_t index, const PeerClient::Busy& busy) {
  const auto view = parts_.members.view();
  const Instant now = parts_.clock.Now();
  std::vector<size_t> helpers;
  for (const std::string& name : busy.helpers) {
    const auto member = std::find_if(view->members.begin(), view->members.end(),
                                     [&](const Member& known) { return known.name == name; });
    if (member == view->members.end() || member->is_self) continue;
    if (std::find(tried_.begin(), tried_.end(), name) != tried_.end()) continue;
    // Who is not asked is of no use, and who names it again is to know.
    if (!parts_.health.Usable(*member, now)) {
      NoteTried(name);
      continue;
    }
    if (named_.size() >= kHelpersMax || std::find(named_.begin(), named_.end(), name) != named_.end())
      continue;
    named_.push_back(name);
    const auto known = std::find_if(candidates_.begin(), candidates_.end(), [&](const Candidate& candidate) {
      return candidate.is_helper && candidate.member.name == name;
    });
    const auto place = static_cast<size_t>(known - candidates_.begin());
    if (known == candidates_.end()) {
      if (candidates_.size() == kCandidatesMax) continue;
      candidates_.push_back({*member, /*is_helper=*/true});
    } else if ((known->asked && !known->answered) ||
               std::find(queue_.begin(), queue_.end(), place) != queue_.end()) {
      continue;
    }
    helpers.push_back(place);
  }
  Candidate& candidate = candidates_[index];
  if (!candidate.is_helper) {
    const Duration retry = std::clamp<Duration>(busy.retry_after * (1 << std::min(candidate.refusals++, 8)),
                                                kRetryMin, kRetryMax);
    candidate.not_before =
        now + std::max<Duration>(kRetryMin, std::chrono::duration_cast<Duration>(retry * RandomFraction()));
    // Of holders the others may have it, too.
    queue_.insert(wanted_.of == Of::kHomes ? queue_.end() : queue_.begin(), index);
  }
  queue_.insert(queue_.end(), helpers.rbegin(), helpers.rend());
}

bool DocumentAsking::MayRenewToken(const absl::Status& why) {
  if (!wanted_.origin || !parts_.tokens || !PeerClient::TakesCredentials(why)) return false;
  const std::lock_guard lock(mutex_);
  return done_ && wanted_.token.empty() && !std::exchange(renewed_, true);
}

// None was shown, or it was not good for that: the same home is asked once more.
void DocumentAsking::RenewToken(size_t index) {
  std::string old;
  {
    const std::lock_guard lock(mutex_);
    candidates_[index].heard = true;  // it answers, once this node has a token
    old = token_;
  }
  parts_.tokens->Renew(*wanted_.origin, old,
                       [self = shared_from_this(), index](absl::StatusOr<std::string> token) {
                         if (absl::IsCancelled(token.status())) return self->Finish(token.status());
                         if (!token.ok()) return self->Finish(self->NotGiven());
                         {
                           const std::lock_guard lock(self->mutex_);
                           self->token_ = *std::move(token);
                         }
                         self->Put(index);
                       });
}

void DocumentAsking::Note(const Member& member, bool is_home, const absl::Status& why) const {
  if (absl::IsPermissionDenied(why)) return parts_.members.NoteSelf(member.name);
  // What a registry has may be larger than is said; what a member has by that name is not.
  const bool is_too_much = absl::IsResourceExhausted(why) && wanted_.of == Of::kHomes;
  if (absl::IsUnauthenticated(why) || absl::IsNotFound(why) || PeerClient::BusyOf(why) || is_too_much)
    return parts_.health.Succeeded(member.name);
  // It said all the while that it is at it.
  if (absl::IsDeadlineExceeded(why) && is_home) return;
  const Instant now = parts_.clock.Now();
  const std::string text(why.message());
  Duration skip = MemberHealth::kSkipWrong;
  if (absl::IsDataLoss(why)) {
    parts_.health.SentWrong(member.name, now, wanted_.path);
  } else {
    skip = parts_.health.Failed(member.name, now, text);
  }
  if (skip == Duration(0)) return;
  parts_.warn(absl::StrCat("member ", member.name, " is not asked for ",
                           std::chrono::duration_cast<std::chrono::seconds>(skip).count(),
                           " s: ", wanted_.path, ": ", text));
}

absl::Status DocumentAsking::NotGiven() const {
  return absl::NotFoundError(absl::StrCat("no member that was asked gave ", wanted_.path));
}

// What comes after the first answer that counts is of no use any more.
void DocumentAsking::Finish(absl::StatusOr<PeerClient::Answer> result) {
  Done done;
  std::vector<Member> silent;
  {
    const std::lock_guard lock(mutex_);
    done = std::exchange(done_, nullptr);
    // What they hold is asked for again and again: whoever says nothing is not asked for the next thing.
    const Instant late = parts_.clock.Now() - parts_.late_after;
    for (Candidate& candidate : candidates_) {
      if (wanted_.of == Of::kHomes || !done || !candidate.asked || candidate.heard || candidate.answered ||
          *candidate.asked > late)
        continue;
      candidate.noted = true;
      silent.push_back(candidate.member);
    }
  }
  for (const Member& member : silent)
    Note(member, /*is_home=*/false, absl::UnavailableError("it says nothing"));
  if (done) std::move(done)(std::move(result));
}

}  // namespace sluice::p2p
