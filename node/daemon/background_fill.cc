#include "node/daemon/background_fill.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

namespace sluice {

struct BackgroundFill::Shared {
  struct Fill {
    uint64_t run = 0;  // tells late callbacks of a try that does not count any more from the new one's
    FetchClass fetch_class = FetchClass::kBackfill;
    std::optional<FillId> fill{};  // of the last try
    Progress progress{};
    absl::flat_hash_map<FillOwner, OnTry> owners{};
  };

  // What is not here yet, and nobody waits for nor has asked for. REQUIRES: mutex held
  bool IsForMountsAlone(const Fill& fill) const {
    return fill.progress.state != api::FillState::kComplete && fill.owners.size() == 1 &&
           fill.owners.contains(FillOwner::kMounts);
  }
  // Nothing of what comes late counts; whoever wants it still may try it again. REQUIRES: mutex held
  void Pause(Fill& fill) {
    if (fill.fill) cache.StopFill(*std::exchange(fill.fill, std::nullopt));
    fill.run = ++runs;
    fill.progress = {};
  }
  // The fill if `run` is still what is wanted. REQUIRES: mutex held
  Fill* Find(const Name& name, uint64_t run) {
    const auto found = fills.find(name);
    return found != fills.end() && found->second.run == run ? &found->second : nullptr;
  }

  const Clock& clock;
  Executor& core;
  BlobCache& cache;
  const Limits limits;

  mutable std::mutex mutex;
  uint64_t runs = 0;                        // guarded by mutex
  uint64_t owners = 0;                      // given out; guarded by mutex
  bool drained = false;                     // guarded by mutex
  absl::flat_hash_map<Name, Fill> fills{};  // guarded by mutex
};

BackgroundFill::BackgroundFill(const Clock& clock, Executor& core, BlobCache& cache, Limits limits)
    : shared_(new Shared{clock, core, cache, limits, {}}) {}

BackgroundFill::~BackgroundFill() {
  std::lock_guard lock(shared_->mutex);
  shared_->fills.clear();
}

FillOwner BackgroundFill::NewOwner() {
  std::lock_guard lock(shared_->mutex);
  return static_cast<FillOwner>(++shared_->owners);
}

void BackgroundFill::Start(const BlobKey& key, FetchClass fetch_class, FillOwner owner, OnTry on_try) {
  Start(Name(key, nullptr), fetch_class, owner, std::move(on_try));
}

void BackgroundFill::Start(const Name& name, FetchClass fetch_class, FillOwner owner, OnTry on_try) {
  uint64_t run = 0;
  std::optional<FillId> replaced;
  {
    std::lock_guard lock(shared_->mutex);
    const auto [found, is_new] = shared_->fills.try_emplace(name);
    Shared::Fill& fill = found->second;
    const bool joined = fill.owners.try_emplace(owner, std::move(on_try)).second;
    const bool complete = fill.progress.state == api::FillState::kComplete;
    if (!is_new && !joined && !complete) return;
    const bool raised = fetch_class < fill.fetch_class;
    if (raised || is_new) fill.fetch_class = fetch_class;
    // One under way goes on, unless it is to go on in a higher class.
    if (fill.progress.state == api::FillState::kFilling && !raised) return;
    run = fill.run = ++shared_->runs;
    replaced = std::exchange(fill.fill, std::nullopt);
    fill.progress = {api::FillState::kFilling, ""};
  }
  if (replaced) shared_->cache.StopFill(*replaced);
  Try(shared_, name, run, shared_->limits.retry_first);
}

void BackgroundFill::Stop(const BlobKey& key, FillOwner owner) {
  Stop(*shared_, Name(key, nullptr), owner);
}

// The cache may have gone, if all fills have.
void BackgroundFill::Stop(Shared& shared, const Name& name, FillOwner owner) {
  std::lock_guard lock(shared.mutex);
  const auto found = shared.fills.find(name);
  if (found == shared.fills.end() || found->second.owners.erase(owner) == 0) return;
  if (shared.drained && shared.IsForMountsAlone(found->second)) shared.Pause(found->second);
  if (!found->second.owners.empty()) return;
  if (found->second.fill) shared.cache.StopFill(*found->second.fill);
  shared.fills.erase(found);
}

void BackgroundFill::SetDrain(api::DrainState state) {
  std::vector<std::pair<Name, uint64_t>> again;
  {
    std::lock_guard lock(shared_->mutex);
    const bool drained = state == api::DrainState::kDrained;
    if (std::exchange(shared_->drained, drained) == drained) return;
    for (auto& [name, fill] : shared_->fills) {
      if (!shared_->IsForMountsAlone(fill)) continue;
      shared_->Pause(fill);
      again.emplace_back(name, fill.run);
    }
  }
  for (const auto& [name, run] : again) Try(shared_, name, run, shared_->limits.retry_first);
}

BackgroundFill::Progress BackgroundFill::Of(const BlobKey& key) const {
  std::lock_guard lock(shared_->mutex);
  const auto found = shared_->fills.find(Name(key, nullptr));
  return found == shared_->fills.end() ? Progress{} : found->second.progress;
}

void BackgroundFill::Try(const std::shared_ptr<Shared>& shared, const Name& name, uint64_t run,
                         Duration retry_after) {
  std::lock_guard lock(shared->mutex);
  Shared::Fill* const fill = shared->Find(name, run);
  if (!fill) return;
  if (shared->drained && shared->IsForMountsAlone(*fill)) return shared->Pause(*fill);
  fill->progress.state = api::FillState::kFilling;
  fill->fill =
      shared->cache.Fill({.blob = name.first, .fetch_class = fill->fetch_class, .grant = name.second},
                         [shared, name, run, retry_after](absl::Status status) {
                           EndTry(shared, name, run, retry_after, status);
                         });
}

void BackgroundFill::EndTry(const std::shared_ptr<Shared>& shared, const Name& name, uint64_t run,
                            Duration retry_after, const absl::Status& status) {
  std::vector<OnTry> told;
  {
    std::lock_guard lock(shared->mutex);
    Shared::Fill* fill = shared->Find(name, run);
    if (!fill) return;
    fill->progress.state = status.ok() ? api::FillState::kComplete : api::FillState::kFailed;
    fill->progress.error = std::string(status.message());
    for (const auto& [owner, on_try] : fill->owners) {
      if (on_try) told.push_back(on_try);
    }
  }
  if (status.ok()) {
    spdlog::info("{} is complete", name.first.ToString());
  } else {
    spdlog::warn("filling {} failed, trying again in {} ms: {}", name.first.ToString(),
                 std::chrono::duration_cast<std::chrono::milliseconds>(retry_after).count(),
                 status.ToString());
    shared->core.PostAt(shared->clock.Now() + retry_after, [shared, name, run, retry_after] {
      Try(shared, name, run, std::min(retry_after * 2, shared->limits.retry_max));
    });
  }
  for (const OnTry& on_try : told) on_try(status);
}

BackgroundFill::Hold::Hold(BackgroundFill& fills, const BlobKey& key, FetchClass fetch_class, Grant grant)
    : shared_(fills.shared_), name_(key, std::move(grant)), owner_(fills.NewOwner()) {
  fills.Start(name_, fetch_class, owner_, nullptr);
}

BackgroundFill::Hold::~Hold() {
  Stop(*shared_, name_, owner_);
}

}  // namespace sluice
