#include "node/daemon/prefetcher.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "api/error_details.h"
#include "node/daemon/hint.h"

namespace sluice {
namespace {

absl::Status Drained() {
  return absl::UnavailableError(
      "the node is drained and brings nothing in ahead of readers; hint at another one, or \"sluice drain "
      "--undo\" first");
}

absl::Status Unknown(const std::string& id) {
  return absl::NotFoundError(
      absl::StrCat("hint \"", id,
                   "\" is not known; a node forgets old hints that are over, and all such when it restarts"));
}

}  // namespace

class Prefetcher::Core : public std::enable_shared_from_this<Core> {
 public:
  // Of one life of the node to the next revisions go on with the time: nobody changes a hint a million times
  // a second.
  Core(Parts parts, Limits limits)
      : parts_(std::move(parts)),
        limits_(limits),
        revision_(static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                            std::chrono::system_clock::now().time_since_epoch())
                                            .count())) {}

  void Restore(std::vector<JournalledHint> hints);
  void Stop();
  size_t SetDrain(api::DrainState state);
  api::DrainState drain() const { return drain_; }
  absl::StatusOr<std::vector<api::SubmitResult>> SubmitHints(const std::vector<api::HintSpec>& specs);
  uint64_t Revision();
  absl::StatusOr<std::vector<api::HintStatus>> GetHints(const std::vector<std::string>& ids);
  std::vector<api::HintStatus> ListHints(const std::string& after, size_t count_max);
  absl::StatusOr<std::vector<api::HintStatus>> CancelHints(const std::vector<std::string>& ids);

 private:
  // What a hint is about; nothing of it is evicted while this lives.
  struct Found {
    std::optional<Blob::Lease> bootstrap;  // of an image
    std::vector<Blob::Lease> blobs;
    std::vector<std::vector<ChunkSpan>> spans{};  // what of each is wanted, if that is not the spec's to say
    std::optional<uint32_t> profile_starts{};
  };

  // --- With mutex_ held.
  PrepareBounds BoundsOf(const Hint& hint) const;
  api::SubmitResult Take(api::HintSpec spec, std::chrono::system_clock::time_point taken);
  absl::Status RoomFor(const api::HintSpec& spec) const;
  absl::StatusOr<std::vector<HintPtr>> FindAll(const std::vector<std::string>& ids) const;
  api::HintStatus Describe(Hint& hint);
  api::HintStatus StatusOf(const Hint& hint) const;
  void ResolveNext();
  void Learn(const HintPtr& hint, Found found);
  void ShareOutFetching();
  void Fetch(const HintPtr& hint);
  void Pause(Hint& hint);
  void TendLater();
  void TryAgainOrFail(const HintPtr& hint, const absl::Status& status);
  void End(Hint& hint, api::HintState state, absl::Status error);
  void LetGo(Hint& hint);
  void Remember(const std::string& id);
  void Complete(const HintPtr& hint);
  void SaveLater(Duration delay);

  // --- On the blocking threads.
  void Resolve(const HintPtr& hint);
  absl::StatusOr<Found> Prepare(const HintPtr& hint);
  absl::StatusOr<Found> PrepareBlob(const HintPtr& hint);
  void AddProfile(const Digest& manifest, Found& found) const;

  // --- On the core loop.
  void Tend();
  void OnTry(const HintPtr& hint, size_t target, const absl::Status& status);
  void ResolveAgain(const HintPtr& hint);

  // --- Where the disk may be waited for.
  void PinAll(const HintPtr& hint, const std::vector<BlobKey>& blobs);
  void Save();

  // Constant after construction.
  const Parts parts_;
  const Limits limits_;

  std::atomic<api::DrainState> drain_{api::DrainState::kServing};  // set with mutex_ held

  std::mutex save_mutex_;  // one save at a time; taken before mutex_
  // Taken before BackgroundFill's.
  std::mutex mutex_;
  // Guarded by mutex_.
  bool stopped_ = false;
  absl::flat_hash_map<std::string, HintPtr> hints_;   // by id
  std::deque<std::string> ended_;                     // ids, the oldest first
  std::vector<HintPtr> queue_;                        // to be resolved
  std::vector<HintPtr> known_;                        // resolved and not over
  int resolving_ = 0;                                 // under way
  uint64_t taken_ = 0;                                // since the start
  uint64_t revision_;                                 // of the latest change of a hint
  bool tending_ = false;                              // Tend will be called
  bool save_due_ = false;                             // Save will be called
  absl::flat_hash_map<std::string, size_t> live_of_;  // hints that are not over, by scheduler
};

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
  }
  std::vector<api::SubmitResult> results;
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
    results.push_back(Take(std::move(spec), std::chrono::system_clock::now()));
  }
  ResolveNext();
  return results;
}

// What an earlier daemon had room for, this one has.
void Prefetcher::Core::Restore(std::vector<JournalledHint> hints) {
  std::lock_guard lock(mutex_);
  for (JournalledHint& journalled : hints) {
    const std::string id = journalled.spec.id;
    const absl::StatusOr<std::string> allowed = parts_.preparer.Check(journalled.spec.reference);
    const api::SubmitResult taken = Take(std::move(journalled.spec), journalled.taken);
    if (taken.outcome != api::SubmitOutcome::kAccepted) {
      spdlog::warn("hint {} of the daemon before is given up: {}", id, taken.error.ToString());
    } else if (!allowed.ok()) {
      End(*hints_.at(id), api::HintState::kFailed, allowed.status());
    }
  }
  ResolveNext();
}

api::SubmitResult Prefetcher::Core::Take(api::HintSpec spec, std::chrono::system_clock::time_point taken) {
  p2p::Platform platform = PlatformOf(spec);
  const auto known = hints_.find(spec.id);
  if (known != hints_.end()) {
    const std::string difference = Difference(*known->second, spec, platform);
    if (difference.empty()) return {api::SubmitOutcome::kKnown, {}, Describe(*known->second)};
    return {
        api::SubmitOutcome::kRefused,
        absl::AlreadyExistsError(absl::StrCat("hint \"", spec.id, "\" is known already, with ", difference)),
        {}};
  }
  if (const absl::Status room = RoomFor(spec); !room.ok()) return {api::SubmitOutcome::kRefused, room, {}};
  const auto hint = std::make_shared<Hint>();
  hint->status.id = spec.id;
  hint->status.reference = spec.reference;
  hint->spec = std::move(spec);
  hint->platform = std::move(platform);
  hint->status.scheduler = hint->spec.scheduler;
  hint->number = ++taken_;
  hint->taken = taken;
  SetTimes(*hint, parts_.clock.Now(), std::chrono::system_clock::now(), limits_.ttl_default);
  hint->owner = parts_.fills.NewOwner();
  hint->retry_after = limits_.retry_first;
  ++live_of_[hint->spec.scheduler];
  hints_.emplace(hint->spec.id, hint);
  queue_.push_back(hint);
  TendLater();
  SaveLater(limits_.save_delay);
  spdlog::info("hint {}: {}", hint->spec.id, hint->spec.reference);
  return {api::SubmitOutcome::kAccepted, {}, Describe(*hint)};
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
  for (const HintPtr& hint : *hints) out.push_back(Describe(*hint));
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
  for (size_t i = 0; i < count; ++i) out.push_back(Describe(*later[i]));
  return out;
}

absl::StatusOr<std::vector<api::HintStatus>> Prefetcher::Core::CancelHints(
    const std::vector<std::string>& ids) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<std::vector<HintPtr>> hints = FindAll(ids);
  if (!hints.ok()) return hints.status();
  std::vector<api::HintStatus> out;
  for (const HintPtr& hint : *hints) {
    if (!hint->over()) End(*hint, api::HintState::kCancelled, absl::OkStatus());
    out.push_back(Describe(*hint));
  }
  ShareOutFetching();
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
  if (hint.over()) return status;
  status.late = hint.due && parts_.clock.Now() > *hint.due;
  if (hint.targets.empty()) return status;
  status.present_bytes = 0;
  for (const Target& target : hint.targets)
    status.present_bytes += PresentBytesOf(target.lease.blob(), target.spans);
  return status;
}

// -------------------------------------------------------------------------------------------- resolving

void Prefetcher::Core::ResolveNext() {
  while (!stopped_ && resolving_ < limits_.resolving_max && !queue_.empty()) {
    const auto first = std::min_element(queue_.begin(), queue_.end(), GoesBefore);
    const HintPtr hint = *first;
    queue_.erase(first);
    ++resolving_;
    hint->status.state = api::HintState::kResolving;
    if (!hint->resolve_by) hint->resolve_by = parts_.clock.Now() + limits_.resolve_max;
    parts_.blocking.Post([self = shared_from_this(), hint] { self->Resolve(hint); });
  }
}

void Prefetcher::Core::Resolve(const HintPtr& hint) {
  absl::StatusOr<Found> found = Prepare(hint);
  std::lock_guard lock(mutex_);
  --resolving_;
  // One that was cancelled meanwhile is over.
  if (!stopped_ && !hint->over()) {
    if (found.ok()) {
      Learn(hint, *std::move(found));
    } else {
      TryAgainOrFail(hint, found.status());
    }
  }
  ResolveNext();
}

absl::StatusOr<Prefetcher::Core::Found> Prefetcher::Core::Prepare(const HintPtr& hint) {
  if (hint->cancelled) return absl::CancelledError("the hint was cancelled");
  if (hint->spec.blob) return PrepareBlob(hint);
  const absl::StatusOr<ResolvedImage> image = parts_.preparer.Resolve(hint->spec.reference, hint->platform);
  if (!image.ok()) return image.status();
  const absl::Status checked = CheckRanges(hint->spec, image->image.blobs);
  if (!checked.ok()) return checked;
  std::optional<PrepareBounds> bounds;
  {
    std::lock_guard lock(mutex_);
    hint->status.manifest = image->manifest;
    bounds.emplace(BoundsOf(*hint));
  }
  absl::StatusOr<PreparedImage> prepared = parts_.preparer.Prepare(*image, *bounds);
  if (!prepared.ok()) return prepared.status();
  Found found{std::move(prepared->bootstrap), std::move(prepared->blobs)};
  if (hint->spec.profile) AddProfile(image->manifest, found);
  return found;
}

void Prefetcher::Core::AddProfile(const Digest& manifest, Found& found) const {
  const std::optional<ImageProfile> profile =
      parts_.find_profile ? parts_.find_profile(manifest) : std::nullopt;
  found.profile_starts = profile ? profile->runs : 0;
  found.spans = SpansOf(profile.value_or(ImageProfile()), found.blobs, limits_.profile_bytes_max);
}

absl::StatusOr<Prefetcher::Core::Found> Prefetcher::Core::PrepareBlob(const HintPtr& hint) {
  const absl::StatusOr<BlobSpec> blob = parts_.preparer.FindBlob(hint->spec.reference, hint->spec.blob->size);
  if (!blob.ok()) return blob.status();
  const absl::Status checked = CheckRanges(hint->spec, {&*blob, 1});
  if (!checked.ok()) return checked;
  std::optional<PrepareBounds> bounds;
  {
    std::lock_guard lock(mutex_);
    bounds.emplace(BoundsOf(*hint));
  }
  absl::StatusOr<Blob::Lease> lease = parts_.preparer.PrepareBlob(*blob, *bounds);
  if (!lease.ok()) return lease.status();
  Found found;
  found.blobs.push_back(*std::move(lease));
  return found;
}

PrepareBounds Prefetcher::Core::BoundsOf(const Hint& hint) const {
  return {.deadline = *hint.resolve_by, .cancelled = hint.cancelled};
}

void Prefetcher::Core::TryAgainOrFail(const HintPtr& hint, const absl::Status& status) {
  const Instant next = parts_.clock.Now() + hint->retry_after;
  if (!MayPass(status) || next >= *hint->resolve_by) return End(*hint, api::HintState::kFailed, status);
  hint->status.error = status;
  hint->retry_after = std::min(hint->retry_after * 2, limits_.retry_max);
  spdlog::warn("hint {}: trying {} again: {}", hint->spec.id, hint->spec.reference, status.ToString());
  parts_.core.PostAt(next, [self = shared_from_this(), hint] { self->ResolveAgain(hint); });
}

void Prefetcher::Core::ResolveAgain(const HintPtr& hint) {
  std::lock_guard lock(mutex_);
  if (stopped_ || hint->over()) return;
  queue_.push_back(hint);
  ResolveNext();
}

// --------------------------------------------------------------------------------------------- fetching

void Prefetcher::Core::Learn(const HintPtr& hint, Found found) {
  hint->status.state = api::HintState::kQueued;
  hint->status.error = absl::OkStatus();
  hint->bootstrap = std::move(found.bootstrap);
  hint->status.profile_starts = found.profile_starts;
  for (size_t i = 0; i < found.blobs.size(); ++i) {
    Blob::Lease& lease = found.blobs[i];
    std::vector<ChunkSpan> spans =
        hint->spec.profile ? std::move(found.spans[i]) : SpansOf(hint->spec, lease.blob());
    if (spans.empty()) continue;
    hint->status.total_bytes += BytesOf(lease.blob().geometry(), spans);
    hint->targets.push_back({std::move(lease), std::move(spans), nullptr});
  }
  hint->incomplete = hint->targets.size();
  if (hint->incomplete == 0) return Complete(hint);
  known_.push_back(hint);
  ShareOutFetching();
}

// One that can't go on just now keeps trying, but not in anybody's place.
void Prefetcher::Core::ShareOutFetching() {
  std::sort(known_.begin(), known_.end(), GoesBefore);
  size_t taken = 0;
  for (const HintPtr& hint : known_) {
    const bool fetching = hint->status.state == api::HintState::kFetching;
    if (fetching && !hint->status.error.ok()) continue;
    const bool may = taken < limits_.fetching_max;
    if (may) ++taken;
    if (may && !fetching) Fetch(hint);
    if (!may && fetching) Pause(*hint);
  }
}

void Prefetcher::Core::Fetch(const HintPtr& hint) {
  hint->status.state = api::HintState::kFetching;
  for (size_t i = 0; i < hint->targets.size(); ++i) {
    Target& target = hint->targets[i];
    if (target.complete) continue;
    const std::weak_ptr<Core> weak = weak_from_this();
    const auto on_try = [weak, hint, i](const absl::Status& status) {
      if (const auto self = weak.lock()) self->OnTry(hint, i, status);
    };
    const BlobKey key = target.lease.blob().key();
    if (hint->wants_all()) {
      parts_.fills.Start(key, FetchClass::kHint, hint->owner, on_try);
    } else {
      target.fill = std::make_unique<RangeFill>(RangeFill::Parts{parts_.clock, parts_.core, parts_.cache},
                                                limits_.ranges, key, target.spans, on_try);
    }
  }
}

void Prefetcher::Core::Pause(Hint& hint) {
  hint.status.state = api::HintState::kQueued;
  for (Target& target : hint.targets) {
    target.fill.reset();
    if (hint.wants_all()) parts_.fills.Stop(target.lease.blob().key(), hint.owner);
  }
}

void Prefetcher::Core::OnTry(const HintPtr& hint, size_t target, const absl::Status& status) {
  std::lock_guard lock(mutex_);
  if (stopped_ || hint->over() || hint->targets[target].complete) return;
  if (status.ok()) {
    hint->targets[target].complete = true;
    --hint->incomplete;
  }
  if (hint->incomplete == 0) {
    Complete(hint);
  } else if (!status.ok() && !MayPass(status)) {
    End(*hint, api::HintState::kFailed, status);
  } else if (hint->status.state == api::HintState::kFetching) {
    hint->status.error = status;
  }  // else it was paused meanwhile, and the end of that try says nothing of the next one
  ShareOutFetching();
}

// ----------------------------------------------------------------------------------------------- ending

// What is to be pinned is held until it is: the hint goes on until then.
void Prefetcher::Core::Complete(const HintPtr& hint) {
  if (!hint->spec.pin || !parts_.pin) return End(*hint, api::HintState::kCompleted, absl::OkStatus());
  std::erase(known_, hint);
  std::vector<BlobKey> blobs;
  for (const Target& target : hint->targets) blobs.push_back(target.lease.blob().key());
  if (hint->bootstrap) blobs.push_back(hint->bootstrap->blob().key());
  parts_.disk->Post(
      [self = shared_from_this(), hint, blobs = std::move(blobs)] { self->PinAll(hint, blobs); });
}

void Prefetcher::Core::PinAll(const HintPtr& hint, const std::vector<BlobKey>& blobs) {
  absl::Status pinned;
  for (const BlobKey& blob : blobs) {
    if (pinned.ok() && !hint->cancelled) pinned = parts_.pin(blob);
  }
  std::lock_guard lock(mutex_);
  if (stopped_ || hint->over()) return;
  End(*hint, pinned.ok() ? api::HintState::kCompleted : api::HintState::kFailed, pinned);
}

void Prefetcher::Core::End(Hint& hint, api::HintState state, absl::Status error) {
  hint.status = StatusOf(hint);
  hint.status.state = state;
  hint.status.error = std::move(error);
  LetGo(hint);
  const auto is_it = [&](const HintPtr& other) { return other.get() == &hint; };
  std::erase_if(queue_, is_it);
  std::erase_if(known_, is_it);
  if (--live_of_[hint.spec.scheduler] == 0) live_of_.erase(hint.spec.scheduler);
  Remember(hint.spec.id);
  SaveLater(limits_.save_delay);
  const HintResult result = ResultOf(state);
  parts_.telemetry.prefetch_hints[static_cast<size_t>(result)].Add();
  if (result == HintResult::kFailed) {
    spdlog::warn("hint {} failed: {}", hint.spec.id, hint.status.error.ToString());
  } else {
    spdlog::info("hint {} is {}: {} of {} bytes present", hint.spec.id, WordFor(state),
                 hint.status.present_bytes, hint.status.total_bytes);
  }
}

void Prefetcher::Core::LetGo(Hint& hint) {
  hint.cancelled = true;
  if (hint.wants_all()) {
    for (const Target& target : hint.targets) parts_.fills.Stop(target.lease.blob().key(), hint.owner);
  }
  hint.targets.clear();
  hint.bootstrap.reset();
}

void Prefetcher::Core::TendLater() {
  if (tending_ || stopped_ || hints_.size() == ended_.size()) return;
  tending_ = true;
  const std::weak_ptr<Core> weak = weak_from_this();
  parts_.core.PostAt(parts_.clock.Now() + limits_.tend_interval, [weak] {
    if (const auto self = weak.lock()) self->Tend();
  });
}

void Prefetcher::Core::Tend() {
  std::lock_guard lock(mutex_);
  tending_ = false;
  if (stopped_) return;
  const Instant now = parts_.clock.Now();
  std::vector<HintPtr> expired;
  for (const auto& [id, hint] : hints_) {
    if (!hint->over() && now >= hint->expires) expired.push_back(hint);
  }
  for (const HintPtr& hint : expired) End(*hint, api::HintState::kExpired, absl::OkStatus());
  ShareOutFetching();
  TendLater();
}

void Prefetcher::Core::Remember(const std::string& id) {
  ended_.push_back(id);
  if (ended_.size() <= limits_.ended_max) return;
  hints_.erase(ended_.front());
  ended_.pop_front();
}

void Prefetcher::Core::SaveLater(Duration delay) {
  if (save_due_ || stopped_ || !parts_.journal) return;
  save_due_ = true;
  const std::weak_ptr<Core> weak = weak_from_this();
  parts_.disk->PostAt(parts_.clock.Now() + delay, [weak] {
    if (const auto self = weak.lock()) self->Save();
  });
}

void Prefetcher::Core::Save() {
  std::lock_guard one(save_mutex_);
  std::vector<HintPtr> live;
  {
    std::lock_guard lock(mutex_);
    if (!std::exchange(save_due_, false)) return;
    for (const auto& [id, hint] : hints_) {
      if (!hint->over()) live.push_back(hint);
    }
  }
  std::sort(live.begin(), live.end(),
            [](const HintPtr& a, const HintPtr& b) { return a->number < b->number; });
  std::vector<JournalledHint> hints;
  for (const HintPtr& hint : live) hints.push_back({hint->spec, hint->taken});
  const absl::Status saved = parts_.journal->Save(hints);
  if (saved.ok()) return;
  spdlog::warn("hints would be lost with the daemon: {}", saved.ToString());
  std::lock_guard lock(mutex_);
  SaveLater(limits_.save_retry);
}

void Prefetcher::Core::Stop() {
  // Nothing that ends from now on ends by its client's will or by what has become of its image.
  Save();
  std::lock_guard lock(mutex_);
  stopped_ = true;
  queue_.clear();
  known_.clear();
  for (const auto& [id, hint] : hints_) LetGo(*hint);
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
