#include "node/profile_replay.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"

namespace sluice {
namespace {

// A registry that is too busy, or away for a moment.
bool PassesSoon(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace

ProfileReplay::ProfileReplay(BlobCache& cache, Telemetry& telemetry, std::vector<std::shared_ptr<Blob>> blobs,
                             const ImageProfile& profile, Limits limits)
    : cache_(cache), telemetry_(telemetry), blobs_(std::move(blobs)), limits_(limits) {
  for (const std::shared_ptr<Blob>& blob : blobs_) {
    asked_.emplace_back(blob->geometry().chunk_count());
    unread_.emplace_back(blob->geometry().chunk_count());
    touched_.emplace_back(blob->geometry().chunk_count());
  }
  for (ProfileSpan span : profile.spans) {
    if (span.blob >= blobs_.size()) continue;
    const uint32_t chunk_count = blobs_[span.blob]->geometry().chunk_count();
    if (span.chunks.first.value() >= chunk_count) continue;
    span.chunks.count = std::min(span.chunks.count, chunk_count - span.chunks.first.value());
    if (span.chunks.count > 0) spans_.push_back(span);
  }
}

void ProfileReplay::Begin() {
  if (ended_) return;
  telemetry_.profile_replays.Add();
  Pump();
}

void ProfileReplay::Pump() {
  while (!ended_ && !waits_ && under_way_bytes_ < limits_.under_way_bytes_max &&
         unread_bytes_ < limits_.unread_bytes_max) {
    const std::optional<Run> run = NextRun();
    if (!run) return;
    Start(*run);
  }
}

std::optional<ProfileReplay::Run> ProfileReplay::NextRun() {
  for (; next_ < spans_.size(); ++next_) {
    ChunkSpan& chunks = spans_[next_].chunks;
    const uint32_t blob = spans_[next_].blob;
    while (chunks.count > 0 && !IsToCome(blob, chunks.first)) chunks = chunks.From(chunks.first.next());
    if (chunks.count == 0) continue;
    const ChunkSpan run = Around(blob, chunks.first);
    return Run{blob, run, BytesOf(blob, run)};
  }
  return std::nullopt;
}

bool ProfileReplay::IsToCome(uint32_t blob, ChunkIndex chunk) const {
  return !asked_[blob].Has(chunk) && !blobs_[blob]->presence().IsPresent(chunk);
}

// The chunk, and what is needed soon and lies beside it. REQUIRES: the span at next_ begins with it
ChunkSpan ProfileReplay::Around(uint32_t blob, ChunkIndex first) const {
  absl::flat_hash_set<uint32_t> soon;
  uint64_t bytes = 0;
  for (size_t at = next_; at < spans_.size() && bytes < limits_.soon_bytes; ++at) {
    const ProfileSpan& span = spans_[at];
    const uint64_t chunk_bytes = blobs_[span.blob]->geometry().chunk_size();
    for (ChunkIndex chunk = span.chunks.first; chunk < span.chunks.end() && bytes < limits_.soon_bytes;
         chunk = chunk.next()) {
      if (!IsToCome(span.blob, chunk)) continue;
      bytes += chunk_bytes;
      if (span.blob == blob) soon.insert(chunk.value());
    }
  }
  const uint32_t count_max =
      std::max<uint32_t>(1, limits_.run_bytes_max / blobs_[blob]->geometry().chunk_size());
  uint32_t from = first.value(), to = from + 1;
  while (to - from < count_max && soon.contains(to)) ++to;
  while (to - from < count_max && from > 0 && soon.contains(from - 1)) --from;
  return {ChunkIndex(from), to - from};
}

void ProfileReplay::Start(Run run) {
  for (ChunkIndex at = run.chunks.first; at < run.chunks.end(); at = at.next()) {
    asked_[run.blob].Add(at);
    // One that a reader waits for already is no advance.
    if (touched_[run.blob].Has(at)) continue;
    unread_[run.blob].Add(at);
    unread_bytes_ += BytesOf(run.blob, {at, 1});
  }
  under_way_bytes_ += run.bytes;
  const uint64_t number = next_number_++;
  // It ends on this loop, and not before this returns.
  run.fill = cache_.Fill(
      {.blob = blobs_[run.blob]->key(), .fetch_class = FetchClass::kReadahead, .chunks = {run.chunks}},
      [weak = weak_from_this(), number](const absl::Status& status) {
        if (const auto self = weak.lock()) self->RunEnded(number, status);
      });
  under_way_.emplace(number, run);
}

void ProfileReplay::RunEnded(uint64_t number, const absl::Status& status) {
  const auto found = under_way_.find(number);
  if (found == under_way_.end()) return;
  const Run run = found->second;
  under_way_.erase(found);
  under_way_bytes_ -= run.bytes;
  if (absl::IsCancelled(status)) {
    // The cache goes.
    under_way_.clear();
    ended_ = true;
    return;
  }
  if (PassesSoon(status)) return PutBack(run);
  if (!status.ok()) return End();
  telemetry_.profile_bytes[static_cast<size_t>(ProfileResult::kFetched)].Add(run.bytes);
  Pump();
}

void ProfileReplay::PutBack(const Run& run) {
  waits_ = true;
  NotUnread(run);
  for (ChunkIndex at = run.chunks.first; at < run.chunks.end(); at = at.next()) asked_[run.blob].Remove(at);
  spans_.insert(spans_.begin() + static_cast<std::ptrdiff_t>(next_), {run.blob, run.chunks, 0});
}

// What has not come is nothing that could have been read.
void ProfileReplay::NotUnread(const Run& run) {
  for (ChunkIndex at = run.chunks.first; at < run.chunks.end(); at = at.next()) {
    if (!unread_[run.blob].Has(at)) continue;
    unread_[run.blob].Remove(at);
    unread_bytes_ -= BytesOf(run.blob, {at, 1});
  }
}

void ProfileReplay::Touched(uint32_t blob, ChunkSpan chunks) {
  if (ended_) return;
  const bool waited = std::exchange(waits_, false);
  touched_[blob].Add(chunks);
  uint64_t used = 0;
  for (ChunkIndex at = chunks.first; at < chunks.end(); at = at.next()) {
    if (!unread_[blob].Has(at)) continue;
    unread_[blob].Remove(at);
    used += BytesOf(blob, {at, 1});
  }
  unread_bytes_ -= used;
  telemetry_.profile_bytes[static_cast<size_t>(ProfileResult::kUsed)].Add(used);
  if (used > 0 || waited) Pump();
}

void ProfileReplay::End() {
  if (std::exchange(ended_, true)) return;
  for (const auto& [number, run] : under_way_) {
    cache_.StopFill(run.fill);
    NotUnread(run);
  }
  under_way_.clear();
  telemetry_.profile_bytes[static_cast<size_t>(ProfileResult::kUnread)].Add(unread_bytes_);
}

}  // namespace sluice
