#include "node/fetch_table.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace sluice {

const char* FetchClassName(FetchClass fetch_class) {
  switch (fetch_class) {
    case FetchClass::kDemand:
      return "demand";
    case FetchClass::kReadahead:
      return "readahead";
    case FetchClass::kHint:
      return "hint";
    case FetchClass::kBackfill:
      return "backfill";
  }
  std::abort();
}

const char* SourceKindName(SourceKind kind) {
  switch (kind) {
    case SourceKind::kLocal:
      return "local";
    case SourceKind::kPeer:
      return "peer";
    case SourceKind::kOrigin:
      return "origin";
  }
  std::abort();
}

FetchTable::Entry* FetchTable::Find(const Blob& blob, ChunkIndex index) {
  const auto found = entries_.find(Key{&blob, index});
  return found == entries_.end() ? nullptr : &found->second.entry;
}

FetchTable::Entry& FetchTable::Open(const std::shared_ptr<Blob>& blob, ChunkIndex index, FetchId owner,
                                    FetchClass fetch_class) {
  const auto [place, inserted] = entries_.try_emplace(Key{blob.get(), index});
  if (!inserted) std::abort();  // two fetches of one chunk: single flight is broken
  place->second.blob = blob;
  place->second.entry.owner = owner;
  place->second.entry.fetch_class = fetch_class;
  return place->second.entry;
}

FetchTable::Entry FetchTable::Close(const Blob& blob, ChunkIndex index) {
  const auto found = entries_.find(Key{&blob, index});
  if (found == entries_.end()) std::abort();
  Entry entry = std::move(found->second.entry);
  entries_.erase(found);
  return entry;
}

absl::Status FetchQueue::Push(PendingFetch fetch) {
  if (fetch.fetch_class != FetchClass::kDemand) {
    if (queued_ >= limits_.queue_max) {
      return absl::ResourceExhaustedError(absl::StrCat("the fetch queue holds its limit of ",
                                                       limits_.queue_max, " fetches; a ",
                                                       FetchClassName(fetch.fetch_class), " fetch of blob ",
                                                       fetch.blob->digest().Short(), " was dropped"));
    }
    ++queued_;
  }
  lanes_[static_cast<int>(fetch.fetch_class)].push_back(std::move(fetch));
  return absl::OkStatus();
}

PendingFetch FetchQueue::Pop() {
  for (int lane = 0; lane < kFetchClassCount; ++lane) {
    if (lanes_[lane].empty() || under_way_[lane] >= limits_.fetches_max[lane]) continue;
    const bool demand = lane == static_cast<int>(FetchClass::kDemand);
    const PendingFetch& next = lanes_[lane].front();
    const uint64_t length = next.blob->geometry().RangeOf(next.chunks).length;
    // A fetch larger than the whole bound goes alone rather than never.
    const bool fits = inflight_bytes_ == 0 || inflight_bytes_ + length <= limits_.inflight_bytes_max;
    if (!demand && !fits) return PendingFetch{};
    PendingFetch fetch = std::move(lanes_[lane].front());
    lanes_[lane].pop_front();
    if (!demand) --queued_;
    ++under_way_[lane];
    inflight_bytes_ += length;
    return fetch;
  }
  return PendingFetch{};
}

}  // namespace sluice
