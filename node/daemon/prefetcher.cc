#include "node/daemon/prefetcher.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "api/error_details.h"
#include "node/daemon/prefetcher_core.h"

namespace sluice {
namespace {

// Answers have a bound.
void CutTargets(api::HintStatus& status, size_t& left) {
  if (status.targets.size() > left) status.targets.resize(left);
  left -= status.targets.size();
}

absl::Status Drained() {
  return absl::UnavailableError(
      "the node is drained and brings nothing in ahead of readers; hint at another one, or \"sluice drain "
      "--undo\" first");
}

// REQUIRES: the hint has that target
api::TargetStatus& TargetOf(api::HintStatus& status, const std::string& member) {
  return *std::lower_bound(
      status.targets.begin(), status.targets.end(), member,
      [](const api::TargetStatus& known, const std::string& name) { return known.name < name; });
}

void SetTarget(api::HintStatus& status, api::TargetStatus& target, api::TargetState state,
               absl::Status error) {
  --status.target_totals[static_cast<size_t>(target.state)];
  ++status.target_totals[static_cast<size_t>(state)];
  target.state = state;
  target.error = std::move(error);
}

absl::Status LostLogin() {
  return absl::UnauthenticatedError(
      "the node has restarted, and credentials of hints are not kept; submit the hint again, with them");
}

// Credentials go over no wire that others can listen to.
absl::Status CheckCredentials(const api::HintSpec& spec, size_t index, const HintCarrier* carrier) {
  if (!spec.credentials || !carrier || carrier->KeepsSecrets()) return absl::OkStatus();
  const bool is_passed_on =
      std::any_of(spec.targets.begin(), spec.targets.end(),
                  [&](const std::string& name) { return carrier->WhoIs(name) != HintCarrier::Who::kSelf; });
  if (!is_passed_on) return absl::OkStatus();
  return api::InvalidField(absl::StrCat("hints[", index, "].credentials"),
                           absl::StrCat("hint \"", spec.id,
                                        "\" has targets, and nodes without TLS between them (tls.ca) pass no "
                                        "credentials on; hint at each of them instead"));
}

absl::Status Unknown(const std::string& id) {
  return absl::NotFoundError(
      absl::StrCat("hint \"", id,
                   "\" is not known; a node forgets old hints that are over, and all such when it restarts"));
}

}  // namespace

// ------------------------------------------------------------------------------------------------ calls

absl::StatusOr<std::vector<api::SubmitResult>> Prefetcher::Core::SubmitHints(
    const std::vector<api::HintSpec>& specs) {
  std::vector<absl::StatusOr<std::string>> references;
  for (const api::HintSpec& spec : specs) {
    references.push_back(parts_.preparer.Check(spec.reference));
    if (absl::IsInvalidArgument(references.back().status())) {
      return absl::InvalidArgumentError(
          absl::StrCat("hint \"", spec.id, "\": ", references.back().status().message()));
    }
    const absl::Status secret = CheckCredentials(spec, references.size() - 1, parts_.carrier);
    if (!secret.ok()) return secret;
  }
  std::vector<api::SubmitResult> results;
  std::vector<JournalledHint> taken;
  {
    std::lock_guard lock(mutex_);
    if (drain_ == api::DrainState::kDrained) return Drained();
    for (size_t i = 0; i < specs.size(); ++i) {
      if (!references[i].ok()) {
        results.push_back({api::SubmitOutcome::kRefused, references[i].status(), {}});
        continue;
      }
      api::HintSpec spec = specs[i];
      spec.reference = *references[i];
      std::sort(spec.ranges.begin(), spec.ranges.end());
      results.push_back(Take(std::move(spec), std::chrono::system_clock::now(), From::kClient));
      if (results.back().outcome != api::SubmitOutcome::kAccepted || !parts_.journal) continue;
      const Hint& hint = *hints_.at(specs[i].id);
      if (!hint.over()) taken.push_back({hint.spec, hint.taken, hint.with_credentials});
    }
    ResolveNext();
    size_t left = api::kHintTargetsPerCallMax;
    for (api::SubmitResult& result : results) CutTargets(result.status, left);
  }
  if (!taken.empty()) WarnUnlessSaved(parts_.journal->AddTaken(taken));
  return results;
}

// What an earlier daemon had room for, this one has.
void Prefetcher::Core::Restore(std::vector<JournalledHint> hints) {
  {
    std::lock_guard lock(mutex_);
    TakeBack(std::move(hints));
    ResolveNext();
    save_due_ = parts_.journal != nullptr;
  }
  // To what the daemon before has left nothing is added.
  Save();
}

void Prefetcher::Core::TakeBack(std::vector<JournalledHint> hints) {
  for (JournalledHint& journalled : hints) {
    const std::string id = journalled.spec.id;
    const bool had_credentials = journalled.had_credentials;
    const absl::StatusOr<std::string> allowed = parts_.preparer.Check(journalled.spec.reference);
    const api::SubmitResult taken = Take(std::move(journalled.spec), journalled.taken, From::kJournal);
    if (taken.outcome != api::SubmitOutcome::kAccepted) {
      spdlog::warn("hint {} of the daemon before is given up: {}", id, taken.error.ToString());
    } else if (!allowed.ok()) {
      End(*hints_.at(id), api::HintState::kFailed, allowed.status());
    } else if (had_credentials) {
      Hint& hint = *hints_.at(id);
      hint.with_credentials = hint.lost_login = true;
      End(hint, api::HintState::kFailed, LostLogin());
    }
  }
}

api::SubmitResult Prefetcher::Core::Take(api::HintSpec spec, std::chrono::system_clock::time_point taken,
                                         From from) {
  p2p::Platform platform = PlatformOf(spec);
  const auto known = hints_.find(spec.id);
  const bool logs_in_again = known != hints_.end() && known->second->lost_login && spec.credentials;
  if (known != hints_.end() && !logs_in_again) return TellKnown(*known->second, spec, platform);
  if (!spec.targets.empty() && !parts_.carrier) {
    return {api::SubmitOutcome::kRefused,
            absl::FailedPreconditionError(
                absl::StrCat("hint \"", spec.id,
                             "\" has targets, and this node was told of no members: set cluster.members, "
                             "or leave the targets out")),
            {}};
  }
  if (const absl::Status room = RoomFor(spec); !room.ok()) return {api::SubmitOutcome::kRefused, room, {}};
  if (logs_in_again) Forget(spec.id);
  const std::optional<api::HintCredentials> credentials = std::exchange(spec.credentials, std::nullopt);
  const auto hint = std::make_shared<Hint>();
  hint->status.id = spec.id;
  hint->status.reference = spec.reference;
  hint->spec = std::move(spec);
  hint->platform = std::move(platform);
  hint->with_credentials = credentials.has_value();
  hint->status.scheduler = hint->spec.scheduler;
  hint->number = ++taken_;
  hint->taken = taken;
  SetTimes(*hint, parts_.clock.Now(), std::chrono::system_clock::now(), limits_.ttl_default);
  hint->owner = parts_.fills.NewOwner();
  hint->retry_after = limits_.retry_first;
  ++live_of_[hint->spec.scheduler];
  hints_.emplace(hint->spec.id, hint);
  std::vector<std::string> members = AddTargets(*hint, from);
  if (credentials && hint->is_here) hint->login = parts_.log_in(hint->spec.reference, *credentials);
  if (hint->is_here) {
    lookups_[RegistryOf(*hint)].waiting.push_back(hint);
  } else {
    hint->status.state = api::HintState::kPassingOn;
  }
  TendLater();
  SaveLater(limits_.save_delay);
  spdlog::info("hint {}: {}", hint->spec.id, hint->spec.reference);
  PassOn(hint, std::move(members), credentials);
  return {api::SubmitOutcome::kAccepted, {}, Describe(*hint)};
}

std::vector<std::string> Prefetcher::Core::AddTargets(Hint& hint, From from) const {
  std::vector<std::string> members;
  if (hint.spec.targets.empty()) return members;
  hint.is_here = false;
  for (const std::string& name : hint.spec.targets) {
    api::TargetStatus target{.name = name};
    const HintCarrier::Who who = parts_.carrier->WhoIs(name);
    if (who == HintCarrier::Who::kSelf) {
      hint.is_here = true;
      target.state = api::TargetState::kTaken;
    } else if (from == From::kJournal) {
      // Which of them were told is not known, nor yet who the members are.
      target.state = api::TargetState::kFailed;
      target.error = absl::UnavailableError("the node that was to tell it has restarted meanwhile");
    } else if (who == HintCarrier::Who::kStranger) {
      target.state = api::TargetState::kFailed;
      target.error =
          absl::NotFoundError("no member of the cluster has that name; \"sluice peers\" shows them");
    } else {
      members.push_back(name);
    }
    ++hint.status.target_totals[static_cast<size_t>(target.state)];
    hint.status.targets.push_back(std::move(target));
  }
  return members;
}

api::SubmitResult Prefetcher::Core::TellKnown(Hint& known, const api::HintSpec& spec,
                                              const p2p::Platform& platform) {
  const std::string difference = known.lost_login
                                     ? "credentials that were lost in a restart; submit it again with them"
                                     : Difference(known, spec, platform);
  if (difference.empty()) return {api::SubmitOutcome::kKnown, {}, Describe(known)};
  return {
      api::SubmitOutcome::kRefused,
      absl::AlreadyExistsError(absl::StrCat("hint \"", spec.id, "\" is known already, with ", difference)),
      {}};
}

void Prefetcher::Core::PassOn(const HintPtr& hint, std::vector<std::string> members,
                              const std::optional<api::HintCredentials>& credentials) {
  if (members.empty()) return EndIfAllAreTold(hint);
  api::HintSpec told = hint->spec;
  told.credentials = credentials;
  parts_.carrier->Carry(
      told, std::move(members),
      [weak = weak_from_this(), hint](const std::string& member, const absl::Status& status) {
        if (const auto self = weak.lock()) self->OnTold(hint, member, status);
      });
}

void Prefetcher::Core::OnTold(const HintPtr& hint, const std::string& member, const absl::Status& status) {
  std::lock_guard lock(mutex_);
  if (stopped_ || (hint->over() && !hint->recalled)) return;
  SetTarget(hint->status, TargetOf(hint->status, member),
            status.ok() ? api::TargetState::kTaken : api::TargetState::kFailed, status);
  if (hint->recalled) return Recall(hint);
  EndIfAllAreTold(hint);
  ShareOutFetching();
}

void Prefetcher::Core::Recall(const HintPtr& hint) {
  hint->recalled = true;
  std::vector<std::string> members;
  for (api::TargetStatus& target : hint->status.targets) {
    const bool goes_on = target.state == api::TargetState::kTaken &&
                         parts_.carrier->WhoIs(target.name) != HintCarrier::Who::kSelf;
    if (!goes_on) continue;
    SetTarget(hint->status, target, api::TargetState::kCancelling, absl::OkStatus());
    members.push_back(target.name);
  }
  if (members.empty()) return;
  parts_.carrier->Recall(
      hint->spec.id, std::move(members),
      [weak = weak_from_this(), hint](const std::string& member, const absl::Status& status) {
        if (const auto self = weak.lock()) self->OnRecalled(hint, member, status);
      });
}

void Prefetcher::Core::OnRecalled(const HintPtr& hint, const std::string& member,
                                  const absl::Status& status) {
  std::lock_guard lock(mutex_);
  if (stopped_) return;
  const bool has_ended = status.ok() || absl::IsNotFound(status);
  SetTarget(hint->status, TargetOf(hint->status, member),
            has_ended ? api::TargetState::kCancelled : api::TargetState::kTaken,
            has_ended ? absl::OkStatus() : status);
}

void Prefetcher::Core::EndIfAllAreTold(const HintPtr& hint) {
  const auto count = [&](api::TargetState state) {
    return hint->status.target_totals[static_cast<size_t>(state)];
  };
  if (hint->spec.targets.empty() || count(api::TargetState::kSending) > 0) return;
  if (hint->is_here) {
    if (hint->told_last) Complete(hint);
    return;
  }
  if (count(api::TargetState::kTaken) > 0) return End(*hint, api::HintState::kPassedOn, absl::OkStatus());
  const api::TargetStatus& first = hint->status.targets.front();
  End(*hint, api::HintState::kFailed,
      absl::Status(first.error.code(),
                   absl::StrCat("none of its ", hint->spec.targets.size(), " targets has taken it; ",
                                first.name, ": ", first.error.message())));
}

absl::Status Prefetcher::Core::RoomFor(const api::HintSpec& spec) const {
  std::string full;
  const auto of_scheduler = live_of_.find(spec.scheduler);
  if (hints_.size() - ended_.size() >= limits_.live_max || stopped_) {
    full = absl::StrCat(limits_.live_max, " hints are under way already");
  } else if (of_scheduler != live_of_.end() && of_scheduler->second >= limits_.live_of_scheduler_max) {
    full = absl::StrCat(limits_.live_of_scheduler_max, " hints of scheduler \"", spec.scheduler,
                        "\" are under way already");
  } else {
    return absl::OkStatus();
  }
  return api::WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat("hint \"", spec.id, "\": ", full, "; try again later")),
      limits_.retry_full);
}

absl::StatusOr<std::vector<HintPtr>> Prefetcher::Core::FindAll(const std::vector<std::string>& ids) const {
  std::vector<HintPtr> found;
  for (const std::string& id : ids) {
    const auto hint = hints_.find(id);
    if (hint == hints_.end()) return Unknown(id);
    found.push_back(hint->second);
  }
  return found;
}

absl::StatusOr<std::vector<api::HintStatus>> Prefetcher::Core::GetHints(const std::vector<std::string>& ids) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<std::vector<HintPtr>> hints = FindAll(ids);
  if (!hints.ok()) return hints.status();
  std::vector<api::HintStatus> out;
  size_t left = api::kHintTargetsPerCallMax;
  for (const HintPtr& hint : *hints) {
    out.push_back(Describe(*hint));
    CutTargets(out.back(), left);
  }
  return out;
}

std::vector<api::HintStatus> Prefetcher::Core::ListHints(const std::string& after, size_t count_max) {
  std::lock_guard lock(mutex_);
  std::vector<Hint*> later;
  for (const auto& [id, hint] : hints_) {
    if (id > after) later.push_back(hint.get());
  }
  const size_t count = std::min(count_max, later.size());
  std::partial_sort(later.begin(), later.begin() + static_cast<std::ptrdiff_t>(count), later.end(),
                    [](const Hint* a, const Hint* b) { return a->spec.id < b->spec.id; });
  std::vector<api::HintStatus> out;
  for (size_t i = 0; i < count; ++i) {
    out.push_back(Describe(*later[i]));
    out.back().targets.clear();
  }
  return out;
}

absl::StatusOr<std::vector<api::HintStatus>> Prefetcher::Core::CancelHints(
    const std::vector<std::string>& ids) {
  std::vector<api::HintStatus> out;
  std::vector<std::string> ended;
  {
    std::lock_guard lock(mutex_);
    const absl::StatusOr<std::vector<HintPtr>> hints = FindAll(ids);
    if (!hints.ok()) return hints.status();
    size_t left = api::kHintTargetsPerCallMax;
    for (const HintPtr& hint : *hints) {
      if (!hint->over()) {
        End(*hint, api::HintState::kCancelled, absl::OkStatus());
        ended.push_back(hint->spec.id);
      }
      Recall(hint);
      out.push_back(Describe(*hint));
      CutTargets(out.back(), left);
    }
    ShareOutFetching();
  }
  if (!ended.empty() && parts_.journal) WarnUnlessSaved(parts_.journal->AddOver(ended));
  return out;
}

size_t Prefetcher::Core::SetDrain(api::DrainState state) {
  std::lock_guard lock(mutex_);
  if (drain_.exchange(state) == state) return 0;
  spdlog::info("{}",
               state == api::DrainState::kDrained ? "drained: no hints are taken" : "hints are taken again");
  std::vector<HintPtr> ended;
  for (const auto& [id, hint] : hints_) {
    if (state == api::DrainState::kDrained && !hint->over()) ended.push_back(hint);
  }
  for (const HintPtr& hint : ended) End(*hint, api::HintState::kFailed, Drained());
  return ended.size();
}

uint64_t Prefetcher::Core::Revision() {
  std::lock_guard lock(mutex_);
  return revision_;
}

// Bytes arrive without notice: a change has its revision from when it is first seen.
api::HintStatus Prefetcher::Core::Describe(Hint& hint) {
  api::HintStatus status = StatusOf(hint);
  status.revision = hint.told.revision;
  if (status.revision == 0 || !(status == hint.told)) status.revision = ++revision_;
  hint.told = status;
  return status;
}

api::HintStatus Prefetcher::Core::StatusOf(const Hint& hint) const {
  api::HintStatus status = hint.status;
  for (size_t i = 0; i < kSourceKindCount; ++i) status.come_bytes[i] = hint.figures->come_bytes[i].value();
  status.used_bytes = hint.figures->used_bytes.value();
  status.unread_bytes = hint.figures->unread_bytes.value();
  if (hint.over()) return status;
  status.late = hint.due && parts_.clock.Now() > *hint.due;
  if (hint.targets.empty()) return status;
  status.present_bytes = 0;
  for (const Target& target : hint.targets)
    status.present_bytes += PresentBytesOf(target.lease.blob(), target.spans);
  status.fetched_bytes = status.present_bytes - std::min(status.present_bytes, hint.present_first);
  status.bytes_per_second = static_cast<uint64_t>(hint.pace.bytes_per_second);
  const uint64_t left = status.total_bytes - std::min(status.total_bytes, status.present_bytes);
  status.expected_late = !status.late && IsExpectedLate(hint, parts_.clock.Now(), left);
  return status;
}

// ----------------------------------------------------------------------------------------------- facade

Prefetcher::Prefetcher(Parts parts, Limits limits)
    : core_(std::make_shared<Core>(std::move(parts), limits)) {}

Prefetcher::~Prefetcher() {
  Stop();
}

void Prefetcher::Restore(std::vector<JournalledHint> hints) {
  core_->Restore(std::move(hints));
}

void Prefetcher::Stop() {
  core_->Stop();
}

size_t Prefetcher::SetDrain(api::DrainState state) {
  return core_->SetDrain(state);
}

api::DrainState Prefetcher::drain() const {
  return core_->drain();
}

absl::StatusOr<std::vector<api::SubmitResult>> Prefetcher::SubmitHints(
    const std::vector<api::HintSpec>& hints) {
  return core_->SubmitHints(hints);
}

uint64_t Prefetcher::Revision() {
  return core_->Revision();
}

absl::StatusOr<std::vector<api::HintStatus>> Prefetcher::GetHints(const std::vector<std::string>& ids) {
  return core_->GetHints(ids);
}

std::vector<api::HintStatus> Prefetcher::ListHints(const std::string& after, size_t count_max) {
  return core_->ListHints(after, count_max);
}

absl::StatusOr<std::vector<api::HintStatus>> Prefetcher::CancelHints(const std::vector<std::string>& ids) {
  return core_->CancelHints(ids);
}

}  // namespace sluice
