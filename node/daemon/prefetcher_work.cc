#include <spdlog/spdlog.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/daemon/prefetcher_core.h"

namespace sluice {
// -------------------------------------------------------------------------------------------- resolving

HintPtr Prefetcher::Core::TakeNextToResolve() {
  Lookups* of_next = nullptr;
  std::vector<HintPtr>::iterator next;
  for (auto& [registry, lookups] : lookups_) {
    if (lookups.waiting.empty() || lookups.under_way >= limits_.resolving_of_registry_max) continue;
    const auto first = std::min_element(lookups.waiting.begin(), lookups.waiting.end(), GoesBefore);
    if (of_next != nullptr && !GoesBefore(*first, *next)) continue;
    of_next = &lookups;
    next = first;
  }
  if (of_next == nullptr) return nullptr;
  HintPtr hint = std::move(*next);
  of_next->waiting.erase(next);
  ++of_next->under_way;
  return hint;
}

void Prefetcher::Core::ForgetIfIdle(const std::string& registry) {
  const auto of = lookups_.find(registry);
  if (of != lookups_.end() && of->second.waiting.empty() && of->second.under_way == 0) lookups_.erase(of);
}

void Prefetcher::Core::ResolveNext() {
  while (!stopped_ && resolving_ < limits_.resolving_max) {
    const HintPtr hint = TakeNextToResolve();
    if (!hint) return;
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
  --lookups_.at(RegistryOf(*hint)).under_way;
  ForgetIfIdle(RegistryOf(*hint));
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
  std::shared_ptr<const HintLogin> login;
  {
    std::lock_guard lock(mutex_);
    login = hint->login;
  }
  // Never by this node's own right instead.
  if (hint->with_credentials && !login) return absl::CancelledError("the hint is over");
  ImagePreparer& preparer = login ? *login->preparer : parts_.preparer;
  return hint->spec.blob ? PrepareBlob(hint, preparer) : PrepareImage(hint, preparer);
}

absl::StatusOr<Prefetcher::Core::Found> Prefetcher::Core::PrepareImage(const HintPtr& hint,
                                                                       ImagePreparer& preparer) {
  const absl::StatusOr<ResolvedImage> image = preparer.Resolve(hint->spec.reference, hint->platform);
  if (!image.ok()) return image.status();
  const absl::Status checked = CheckRanges(hint->spec, image->image.blobs);
  if (!checked.ok()) return checked;
  std::optional<PrepareBounds> bounds;
  {
    std::lock_guard lock(mutex_);
    hint->status.manifest = image->manifest;
    bounds.emplace(BoundsOf(*hint));
  }
  absl::StatusOr<PreparedImage> prepared = preparer.Prepare(*image, *bounds);
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

absl::StatusOr<Prefetcher::Core::Found> Prefetcher::Core::PrepareBlob(const HintPtr& hint,
                                                                      ImagePreparer& preparer) {
  const absl::StatusOr<BlobSpec> blob = preparer.FindBlob(hint->spec.reference, hint->spec.blob->size);
  if (!blob.ok()) return blob.status();
  const absl::Status checked = CheckRanges(hint->spec, {&*blob, 1});
  if (!checked.ok()) return checked;
  std::optional<PrepareBounds> bounds;
  {
    std::lock_guard lock(mutex_);
    bounds.emplace(BoundsOf(*hint));
  }
  absl::StatusOr<Blob::Lease> lease = preparer.PrepareBlob(*blob, *bounds);
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
  lookups_[RegistryOf(*hint)].waiting.push_back(hint);
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
    hint->present_first += PresentBytesOf(lease.blob(), spans);
    ChunkSet missing = MissingOf(lease.blob(), spans);
    if (parts_.arrivals) parts_.arrivals->Watch(lease.blob().key(), missing, hint->figures);
    hint->targets.push_back({std::move(lease), std::move(spans), nullptr, false, std::move(missing)});
  }
  hint->incomplete = hint->targets.size();
  if (hint->incomplete == 0) return Complete(hint);
  const auto capacity = static_cast<uint64_t>(parts_.telemetry.cache_capacity_bytes.value());
  if (capacity > 0 && hint->status.total_bytes > capacity) {
    return End(*hint, api::HintState::kFailed,
               absl::FailedPreconditionError(absl::StrCat(
                   hint->spec.reference, ": the hint is for ", hint->status.total_bytes,
                   " bytes, and the store may take up ", capacity,
                   ": what came first would be gone before the rest is there. Hint at what starts read "
                   "(--profile), at parts (--range), or raise store.capacity")));
  }
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
    if (hint->shares_fills()) {
      parts_.fills.Start(key, FetchClass::kHint, hint->owner, on_try);
    } else {
      target.fill = std::make_unique<RangeFill>(RangeFill::Parts{parts_.clock, parts_.core, parts_.cache},
                                                limits_.ranges, key, target.spans, on_try,
                                                hint->login ? hint->login->grant : nullptr);
    }
  }
}

void Prefetcher::Core::Pause(Hint& hint) {
  hint.status.state = api::HintState::kQueued;
  for (Target& target : hint.targets) {
    target.fill.reset();
    if (hint.shares_fills()) parts_.fills.Stop(target.lease.blob().key(), hint.owner);
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
  hint->told_last = hint->status.target_totals[static_cast<size_t>(api::TargetState::kSending)] > 0;
  if (!hint->told_last && (!hint->spec.pin || !parts_.pin))
    return End(*hint, api::HintState::kCompleted, absl::OkStatus());
  std::erase(known_, hint);
  if (hint->told_last) return;
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
  hint.pace = {};
  hint.status = StatusOf(hint);
  hint.status.state = state;
  hint.status.error = std::move(error);
  LetGo(hint);
  const auto is_it = [&](const HintPtr& other) { return other.get() == &hint; };
  if (const auto of = lookups_.find(RegistryOf(hint)); of != lookups_.end()) {
    std::erase_if(of->second.waiting, is_it);
    ForgetIfIdle(RegistryOf(hint));
  }
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
  if (hint.shares_fills()) {
    for (const Target& target : hint.targets) parts_.fills.Stop(target.lease.blob().key(), hint.owner);
  }
  for (const Target& target : hint.targets) {
    const Blob& blob = target.lease.blob();
    if (parts_.arrivals) parts_.arrivals->Forget(blob.key(), *hint.figures);
    if (parts_.precision) parts_.precision->Brought(blob, PresentOf(blob, target.missing), hint.figures);
  }
  hint.targets.clear();
  hint.bootstrap.reset();
  hint.login.reset();
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
    if (hint->over()) continue;
    if (now >= hint->expires) expired.push_back(hint);
    // Those alone that have a place: few, as this looks at all of their chunks.
    const bool fetches = hint->status.state == api::HintState::kFetching && hint->status.error.ok();
    NotePace(*hint, now, fetches ? std::optional(StatusOf(*hint).fetched_bytes) : std::nullopt);
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

void Prefetcher::Core::Forget(const std::string& id) {
  hints_.erase(id);
  std::erase(ended_, id);
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
  {
    std::lock_guard lock(mutex_);
    if (!save_due_) return;
  }
  parts_.journal->BeginSave();
  std::vector<HintPtr> live;
  {
    std::lock_guard lock(mutex_);
    save_due_ = false;
    for (const auto& [id, hint] : hints_) {
      if (!hint->over()) live.push_back(hint);
    }
  }
  std::sort(live.begin(), live.end(),
            [](const HintPtr& a, const HintPtr& b) { return a->number < b->number; });
  std::vector<JournalledHint> hints;
  for (const HintPtr& hint : live) hints.push_back({hint->spec, hint->taken, hint->with_credentials});
  const absl::Status saved = parts_.journal->Save(hints);
  WarnUnlessSaved(saved);
  if (saved.ok()) return;
  std::lock_guard lock(mutex_);
  SaveLater(limits_.save_retry);
}

void Prefetcher::Core::WarnUnlessSaved(const absl::Status& saved) {
  if (!saved.ok()) spdlog::warn("hints would be lost with the daemon: {}", saved.ToString());
}

void Prefetcher::Core::Stop() {
  // Nothing that ends from now on ends by its client's will or by what has become of its image.
  Save();
  std::lock_guard lock(mutex_);
  stopped_ = true;
  for (auto& [registry, lookups] : lookups_) lookups.waiting.clear();
  known_.clear();
  for (const auto& [id, hint] : hints_) LetGo(*hint);
}

}  // namespace sluice
