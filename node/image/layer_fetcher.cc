#include "node/image/layer_fetcher.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "node/image/source_image.h"

namespace sluice {

LayerFetcher::LayerFetcher(p2p::RegistryClient& registry, BlobOrigin origin,
                           std::vector<p2p::Descriptor> layers, std::string directory, ProgressSink& progress)
    : registry_(registry),
      origin_(std::move(origin)),
      layers_(std::move(layers)),
      directory_(std::move(directory)),
      progress_(progress) {
  Begin();
}

LayerFetcher::~LayerFetcher() {
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (request_) request_->Cancel();
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::string> LayerFetcher::Next() {
  const p2p::Descriptor& layer = layers_[next_];
  progress_.Begin(absl::StrCat("fetching ", layer.digest.Short()), layer.size);
  absl::Status status;
  {
    std::unique_lock lock(mutex_);
    progress_.Advance(bytes_);
    shown_ = true;
    changed_.wait(lock, [this] { return ended_; });
    shown_ = false;
    status = status_;
  }
  thread_.join();
  if (!status.ok()) return status;
  std::string path = absl::StrCat(directory_, "/layer-", next_);
  ++next_;
  Begin();
  return path;
}

void LayerFetcher::Begin() {
  if (next_ == layers_.size()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = false;
    bytes_ = 0;
  }
  thread_ = std::thread([this, &layer = layers_[next_], path = absl::StrCat(directory_, "/layer-", next_)] {
    Run(layer, path);
  });
}

void LayerFetcher::Run(const p2p::Descriptor& layer, const std::string& path) {
  absl::Status status = DownloadBlob(
      registry_, origin_, layer, path,
      {.on_bytes = [this](uint64_t bytes) { Advance(bytes); },
       .on_request = [this](std::shared_ptr<FetchControl> request) { Watch(std::move(request)); }});
  const std::lock_guard lock(mutex_);
  status_ = std::move(status);
  ended_ = true;
  changed_.notify_all();
}

void LayerFetcher::Advance(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  bytes_ = bytes;
  if (shown_) progress_.Advance(bytes);
}

void LayerFetcher::Watch(std::shared_ptr<FetchControl> request) {
  const std::lock_guard lock(mutex_);
  request_ = std::move(request);
  // It may have been begun after the last was cancelled.
  if (cancelled_) request_->Cancel();
}

}  // namespace sluice
