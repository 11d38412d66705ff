#include "node/fetch_table.h"

#include <cstddef>
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
  Lane& lane = lanes_[static_cast<int>(fetch.fetch_class)];
  Share& share = lane.shares[fetch.blob.get()];
  if (share.waiting.empty()) lane.turns.push_back(fetch.blob.get());
  share.waiting.push_back(std::move(fetch));
  return absl::OkStatus();
}

size_t FetchQueue::FirstAllowed(const Lane& lane, uint32_t fetches_max) const {
  const uint32_t left = fetches_max > lane.under_way ? fetches_max - lane.under_way : 0;
  size_t turn = 0;
  while (turn < lane.turns.size() && lane.shares.at(lane.turns[turn]).under_way >= left) ++turn;
  return turn;
}

PendingFetch FetchQueue::Pop() {
  for (int i = 0; i < kFetchClassCount; ++i) {
    Lane& lane = lanes_[i];
    const size_t turn = FirstAllowed(lane, limits_.fetches_max[i]);
    if (turn == lane.turns.size()) continue;
    const Blob* blob = lane.turns[turn];
    Share& share = lane.shares.at(blob);
    const bool demand = i == static_cast<int>(FetchClass::kDemand);
    const uint64_t length = blob->geometry().RangeOf(share.waiting.front().chunks).length;
    // A fetch larger than the whole bound goes alone rather than never.
    const bool fits = inflight_bytes_ == 0 || inflight_bytes_ + length <= limits_.inflight_bytes_max;
    if (!demand && !fits) return PendingFetch{};
    PendingFetch fetch = std::move(share.waiting.front());
    share.waiting.pop_front();
    lane.turns.erase(lane.turns.begin() + static_cast<std::ptrdiff_t>(turn));
    if (!share.waiting.empty()) lane.turns.push_back(blob);
    if (!demand) --queued_;
    ++share.under_way;
    ++lane.under_way;
    inflight_bytes_ += length;
    return fetch;
  }
  return PendingFetch{};
}

void FetchQueue::Finished(const PendingFetch& fetch) {
  Lane& lane = lanes_[static_cast<int>(fetch.fetch_class)];
  const auto share = lane.shares.find(fetch.blob.get());
  --lane.under_way;
  if (--share->second.under_way == 0 && share->second.waiting.empty()) lane.shares.erase(share);
}

}  // namespace sluice
