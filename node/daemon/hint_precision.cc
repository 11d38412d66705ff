#include "node/daemon/hint_precision.h"

#include <cstdint>
#include <iterator>
#include <utility>

namespace sluice {
namespace {

Counter& Judged(HintFigures& figures, HintBytes as) {
  return as == HintBytes::kUsed ? figures.used_bytes : figures.unread_bytes;
}

uint64_t BytesOf(const ChunkGeometry& geometry, const ChunkSet& chunks) {
  uint64_t bytes = 0;
  const ChunkIndex end(chunks.chunk_count());
  for (ChunkIndex at = chunks.NextSet({ChunkIndex(0), end.value()}); at < end;) {
    const ChunkIndex next = chunks.NextClear({at, end.value() - at.value()});
    bytes += geometry.RangeOf(ChunkSpan{at, next.value() - at.value()}).length;
    at = chunks.NextSet({next, end.value() - next.value()});
  }
  return bytes;
}

}  // namespace

void HintPrecision::Brought(const Blob& blob, const ChunkSet& chunks, std::shared_ptr<HintFigures> figures) {
  if (chunks.empty()) return;
  const std::lock_guard lock(mutex_);
  auto found = blobs_.find(blob.key());
  if (found == blobs_.end()) {
    if (blobs_.size() >= kBlobsMax) {
      blobs_.erase(order_.front());
      order_.pop_front();
    }
    order_.push_back(blob.key());
    found = blobs_.emplace(blob.key(), Unjudged{ChunkSet(chunks.chunk_count()), {}, std::prev(order_.end())})
                .first;
  }
  ChunkSet fresh = chunks;
  fresh.Subtract(found->second.chunks);
  if (fresh.empty()) return;
  found->second.chunks.UnionWith(fresh);
  counters_.hint_bytes[static_cast<size_t>(HintBytes::kFetched)].Add(BytesOf(blob.geometry(), fresh));
  found->second.shares.push_back({std::move(figures), std::move(fresh)});
}

void HintPrecision::Started(std::span<const std::shared_ptr<Blob>> blobs, const ImageProfile& read) {
  std::vector<ChunkSet> used;
  for (const std::shared_ptr<Blob>& blob : blobs) used.emplace_back(blob->geometry().chunk_count());
  for (const ProfileSpan& span : read.spans) used[span.blob].Add(span.chunks);
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < blobs.size(); ++i) {
    Judge(*blobs[i], used[i], HintBytes::kUsed);
    ChunkSet rest(blobs[i]->geometry().chunk_count());
    rest.Add(blobs[i]->geometry().All());
    Judge(*blobs[i], rest, HintBytes::kUnread);
  }
}

void HintPrecision::Lost(const Blob& blob) {
  ChunkSet absent(blob.geometry().chunk_count());
  absent.Add(blob.geometry().All());
  absent.Subtract(blob.presence().Snapshot());
  const std::lock_guard lock(mutex_);
  Judge(blob, absent, HintBytes::kUnread);
}

void HintPrecision::Judge(const Blob& blob, const ChunkSet& judged, HintBytes as) {
  const auto found = blobs_.find(blob.key());
  if (found == blobs_.end()) return;
  for (Share& share : found->second.shares) {
    ChunkSet chunks = share.chunks;
    chunks.IntersectWith(judged);
    const uint64_t bytes = BytesOf(blob.geometry(), chunks);
    counters_.hint_bytes[static_cast<size_t>(as)].Add(bytes);
    Judged(*share.figures, as).Add(bytes);
    share.chunks.Subtract(chunks);
  }
  std::erase_if(found->second.shares, [](const Share& share) { return share.chunks.empty(); });
  found->second.chunks.Subtract(judged);
  if (!found->second.chunks.empty()) return;
  order_.erase(found->second.place);
  blobs_.erase(found);
}

}  // namespace sluice
