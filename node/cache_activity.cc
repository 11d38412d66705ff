#include "node/cache_activity.h"

#include <algorithm>

#include "node/fetch_table.h"
#include "node/read_table.h"

namespace sluice {

CacheActivity ActivityOf(const ReadTable& reads, const FetchTable& wanted, Instant now) {
  CacheActivity activity;
  wanted.ForEach([&](const Blob& blob, ChunkIndex index, const WantedChunk& chunk) {
    CacheActivity::Chunks& of_class = activity.chunks[static_cast<size_t>(chunk.fetch_class)];
    switch (chunk.state) {
      case WantedChunk::State::kQueued:
        ++of_class.queued;
        break;
      case WantedChunk::State::kUnderWay:
        ++of_class.under_way;
        activity.under_way[blob.key()].push_back(index);
        break;
      case WantedChunk::State::kPaused:
        ++of_class.paused;
        break;
    }
  });
  std::vector<const PendingRead*> waiting;
  reads.ForEach([&](const PendingRead& read) {
    if (!read.work) waiting.push_back(&read);
  });
  activity.reads_waiting = waiting.size();
  const size_t shown = std::min(waiting.size(), CacheActivity::kReadsMax);
  std::partial_sort(waiting.begin(), waiting.begin() + static_cast<ptrdiff_t>(shown), waiting.end(),
                    [](const PendingRead* a, const PendingRead* b) { return a->started < b->started; });
  for (size_t i = 0; i < shown; ++i) {
    const PendingRead& read = *waiting[i];
    activity.reads.push_back(
        {read.blob->key(), read.range, now - read.started, read.deadline - now, read.outstanding});
  }
  return activity;
}

}  // namespace sluice
