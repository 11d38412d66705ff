#include "node/daemon/background_fill.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace sluice {

struct BackgroundFill::Shared {
  struct Fill {
    uint64_t run = 0;  // tells a stopped and started fill's late callbacks from the new one's
    Progress progress;
  };

  // The fill if `run` is still what is wanted. REQUIRES: mutex held
  Fill* Find(const Digest& digest, uint64_t run) {
    const auto found = fills.find(digest);
    return found != fills.end() && found->second.run == run ? &found->second : nullptr;
  }

  const Clock& clock;
  Executor& core;
  BlobCache& cache;
  const Limits limits;

  mutable std::mutex mutex;
  uint64_t runs = 0;                          // guarded by mutex
  absl::flat_hash_map<Digest, Fill> fills{};  // guarded by mutex
};

BackgroundFill::BackgroundFill(const Clock& clock, Executor& core, BlobCache& cache, Limits limits)
    : shared_(new Shared{clock, core, cache, limits, {}}) {}

BackgroundFill::~BackgroundFill() {
  std::lock_guard lock(shared_->mutex);
  shared_->fills.clear();
}

void BackgroundFill::Start(const Digest& digest) {
  uint64_t run = 0;
  {
    std::lock_guard lock(shared_->mutex);
    const auto [fill, inserted] = shared_->fills.try_emplace(digest);
    if (!inserted && fill->second.progress.state != api::FillState::kComplete) return;
    run = fill->second.run = ++shared_->runs;
    fill->second.progress = {api::FillState::kFilling, ""};
  }
  Try(shared_, digest, run, shared_->limits.retry_first);
}

void BackgroundFill::Stop(const Digest& digest) {
  {
    std::lock_guard lock(shared_->mutex);
    if (shared_->fills.erase(digest) == 0) return;
  }
  shared_->cache.StopFill(digest);
}

BackgroundFill::Progress BackgroundFill::Of(const Digest& digest) const {
  std::lock_guard lock(shared_->mutex);
  const auto found = shared_->fills.find(digest);
  return found == shared_->fills.end() ? Progress{} : found->second.progress;
}

void BackgroundFill::Try(const std::shared_ptr<Shared>& shared, const Digest& digest, uint64_t run,
                         Duration retry_after) {
  shared->cache.Fill(digest, FetchClass::kBackfill, [shared, digest, run, retry_after](absl::Status status) {
    {
      std::lock_guard lock(shared->mutex);
      Shared::Fill* fill = shared->Find(digest, run);
      if (!fill) return;
      fill->progress.state = status.ok() ? api::FillState::kComplete : api::FillState::kFailed;
      fill->progress.error = std::string(status.message());
    }
    if (status.ok()) {
      spdlog::info("blob {} is complete", digest.ToString());
      return;
    }
    spdlog::warn("filling blob {} failed, trying again in {} ms: {}", digest.ToString(),
                 std::chrono::duration_cast<std::chrono::milliseconds>(retry_after).count(),
                 status.ToString());
    shared->core.PostAt(shared->clock.Now() + retry_after, [shared, digest, run, retry_after] {
      {
        std::lock_guard lock(shared->mutex);
        Shared::Fill* fill = shared->Find(digest, run);
        if (!fill) return;
        fill->progress.state = api::FillState::kFilling;
      }
      Try(shared, digest, run, std::min(retry_after * 2, shared->limits.retry_max));
    });
  });
}

}  // namespace sluice
