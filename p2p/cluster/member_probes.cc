#include "p2p/cluster/member_probes.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

// What every node answers, in a few bytes.
constexpr char kPath[] = "/v2/";
constexpr uint64_t kAnswerBytesMax = 1 << 10;

std::optional<Member> Find(const MemberView& view, const std::string& name) {
  const auto found =
      std::lower_bound(view.members.begin(), view.members.end(), name,
                       [](const Member& member, const std::string& wanted) { return member.name < wanted; });
  if (found != view.members.end() && found->name == name) return *found;
  const auto unnamed = std::find_if(view.unnamed.begin(), view.unnamed.end(),
                                    [&](const Member& member) { return member.name == name; });
  return unnamed == view.unnamed.end() ? std::nullopt : std::optional<Member>(*unnamed);
}

bool HasAnswered(const absl::Status& status) {
  return status.ok() || absl::IsNotFound(status) || absl::IsResourceExhausted(status) ||
         absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status);
}

}  // namespace

void MemberProbes::ProbeAfter(const std::string& member, Duration delay) {
  parts_.client.After(delay, [weak = weak_from_this(), member] {
    if (const auto self = weak.lock()) self->Due(member);
  });
}

void MemberProbes::Due(const std::string& member) {
  {
    const std::lock_guard lock(mutex_);
    if (known_.size() == kWaitingMax || !known_.insert(member).second) return;
    waiting_.push_back(member);
  }
  AskNext();
}

void MemberProbes::AskNext() {
  for (;;) {
    std::string name;
    {
      const std::lock_guard lock(mutex_);
      if (waiting_.empty() || asked_ == kAtOnceMax) return;
      name = std::move(waiting_.front());
      waiting_.pop_front();
      ++asked_;
    }
    const std::optional<Member> member =
        parts_.health.AwaitsProbe(name) ? Find(*parts_.members.view(), name) : std::nullopt;
    if (member) {
      Ask(*member);
      continue;
    }
    // It has answered somebody meanwhile, or is no member any more.
    parts_.health.Probed(name);
    const std::lock_guard lock(mutex_);
    known_.erase(name);
    --asked_;
  }
}

void MemberProbes::Ask(const Member& member) {
  PeerTransport::Question question{kPath, kAnswerBytesMax, kTimeout};
  question.fetch_class = FetchClass::kBackfill;
  parts_.client.Ask(
      member, question,
      [weak = weak_from_this(), name = member.name](const absl::StatusOr<PeerTransport::Answer>& answer) {
        if (const auto self = weak.lock()) self->Ended(name, answer.status());
      });
}

void MemberProbes::Ended(const std::string& member, const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    known_.erase(member);
    --asked_;
  }
  if (absl::IsCancelled(status)) return;
  if (HasAnswered(status)) {
    parts_.health.Probed(member);
  } else if (absl::IsDeadlineExceeded(status)) {
    ProbeAfter(member, kAgain);
  } else {
    parts_.health.Failed(member, parts_.clock.Now(), Std(status.message()));
  }
  AskNext();
}

}  // namespace sluice::p2p
