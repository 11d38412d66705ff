#include "node/daemon/hint_arrivals.h"

#include <utility>

namespace sluice {

void HintArrivals::Watch(const BlobKey& key, ChunkSet missing, std::shared_ptr<HintFigures> figures) {
  if (missing.empty()) return;
  const std::lock_guard lock(mutex_);
  blobs_[key].push_back({std::move(missing), std::move(figures)});
  blobs_count_ = blobs_.size();
}

void HintArrivals::Forget(const BlobKey& key, const HintFigures& figures) {
  const std::lock_guard lock(mutex_);
  const auto found = blobs_.find(key);
  if (found == blobs_.end()) return;
  std::erase_if(found->second, [&](const Waiting& waiting) { return waiting.figures.get() == &figures; });
  if (found->second.empty()) blobs_.erase(found);
  blobs_count_ = blobs_.size();
}

void HintArrivals::Came(const Blob& blob, ChunkIndex index, std::optional<FetchClass>, SourceKind from) {
  if (blobs_count_ == 0) return;
  const std::lock_guard lock(mutex_);
  const auto found = blobs_.find(blob.key());
  if (found == blobs_.end()) return;
  const uint64_t length = blob.geometry().RangeOf(index).length;
  for (Waiting& waiting : found->second) {
    if (!waiting.missing.Has(index)) continue;
    waiting.missing.Remove(index);
    waiting.figures->come_bytes[static_cast<size_t>(from)].Add(length);
  }
}

}  // namespace sluice
