#include "node/daemon/start_reports.h"

#include <algorithm>
#include <utility>

namespace sluice {

StartReports::Chunks::Chunks(const Blob& blob)
    : here(blob.presence().Snapshot()),
      profile(here.chunk_count()),
      readahead(here.chunk_count()),
      hint(here.chunk_count()),
      fill(here.chunk_count()),
      waited(here.chunk_count()) {}

// ------------------------------------------------------------------------------------------------ mounts

void StartReports::Begin(api::StartReport report, const std::vector<std::shared_ptr<Blob>>& blobs) {
  Entry entry;
  entry.prepared = clock_.Now();
  for (const std::shared_ptr<Blob>& blob : blobs) {
    entry.blobs.push_back(blob->key());
    entry.chunks.try_emplace(blob->key(), *blob);
  }
  std::string mount_point = report.mount_point;
  entry.report = std::move(report);
  const std::lock_guard lock(mutex_);
  entry.reads_before = reads_;
  entries_.insert_or_assign(std::move(mount_point), std::move(entry));
  CountWatched();
}

void StartReports::Prepared(const std::string& mount_point, const api::PrepareTimes& times) {
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(mount_point);
  if (found == entries_.end()) return;
  found->second.prepared = now;
  found->second.report.prepared = times;
}

void StartReports::Mounted(const std::string& mount_point) {
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(mount_point);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  // Somebody may have read of it before this thread was told.
  entry.mounted = entry.first_read ? std::min(now, *entry.first_read) : now;
  entry.report.mounting = *entry.mounted - entry.prepared;
}

void StartReports::Moved(const std::string& from, const std::string& to) {
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  auto moved = entries_.extract(from);
  if (moved.empty()) return;
  StopWatching(moved.mapped(), now);
  moved.mapped().report.mount_point = to;
  entries_.insert_or_assign(to, std::move(moved.mapped()));
  CountWatched();
}

void StartReports::End(const std::string& mount_point) {
  const std::lock_guard lock(mutex_);
  entries_.erase(mount_point);
  CountWatched();
}

// ------------------------------------------------------------------------------------------------- waits

uint64_t StartReports::ReadBegan(const BlobKey& key) {
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  if (watched_ > 0) {
    ForWatched(key, [&](Entry& entry, Chunks&) {
      NoteFirstRead(entry, now);
      if (entry.waiting++ == 0) entry.waiting_since = now;
    });
  }
  return ++reads_;
}

void StartReports::ReadEnded(const BlobKey& key, uint64_t began, uint64_t length, Duration waited,
                             const absl::StatusOr<ReadResult>& result) {
  if (watched_ == 0) return;
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  ForWatched(key, [&](Entry& entry, Chunks&) {
    // One that began before the mount is another mount's.
    if (began <= entry.reads_before) return;
    if (--entry.waiting == 0) entry.report.waiting += now - entry.waiting_since;
    if (!result.ok()) {
      ++entry.report.failed;
      return;
    }
    api::WaitedReads& reads = entry.report.waited[static_cast<size_t>(result->source)];
    ++reads.reads;
    reads.bytes += length;
    reads.waited += waited;
    reads.queued += result->times.queued;
    reads.answer += result->times.answer;
    reads.wire += result->times.wire;
    reads.verified += result->times.verified;
    reads.stored += result->times.stored;
    if (result->times.foreseen) ++reads.foreseen;
  });
}

// ----------------------------------------------------------------------------------------------- touches

void StartReports::Foreseen(const std::string& mount_point, uint32_t blob, ChunkSpan chunks) {
  const std::lock_guard lock(mutex_);
  const auto place = entries_.find(mount_point);
  if (place == entries_.end() || blob >= place->second.blobs.size()) return;
  ChunkSet& profile = place->second.chunks.at(place->second.blobs[blob]).profile;
  if (chunks.first.value() < profile.chunk_count() &&
      chunks.count <= profile.chunk_count() - chunks.first.value())
    profile.Add(chunks);
}

void StartReports::Touched(const std::string& mount_point, const Blob& blob, ChunkSpan chunks, Touch touch) {
  if (watched_ == 0) return;
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  const auto place = entries_.find(mount_point);
  if (place == entries_.end() || IsOver(place->second, now)) return;
  Entry& entry = place->second;
  const auto known = entry.chunks.find(blob.key());
  if (known == entry.chunks.end()) return;
  NoteFirstRead(entry, now);
  for (ChunkIndex at = chunks.first; at < chunks.end(); at = at.next()) {
    const uint64_t length = blob.geometry().RangeOf(at).length;
    if (touch == Touch::kWaits && !blob.presence().IsPresent(at)) {
      entry.report.touched.waited += length;
      known->second.waited.Add(at);
    } else {
      CounterOf(entry, known->second, at) += length;
    }
  }
}

// REQUIRES: mutex_ is held; the chunk was there when it was touched
uint64_t& StartReports::CounterOf(Entry& entry, const Chunks& chunks, ChunkIndex at) const {
  api::TouchedBytes& touched = entry.report.touched;
  if (chunks.here.Has(at)) return touched.here;
  if (chunks.hint.Has(at)) return touched.hint;
  if (chunks.fill.Has(at)) return touched.fill;
  // A profile is replayed in the class of what is read ahead. One that has come just now may not be told of
  // yet.
  if (chunks.profile.Has(at)) return touched.profile;
  return chunks.readahead.Has(at) ? touched.readahead : touched.other;
}

void StartReports::Came(const Blob& blob, ChunkIndex index, std::optional<FetchClass> asked_as, SourceKind) {
  if (watched_ == 0 || !asked_as || *asked_as == FetchClass::kDemand) return;
  const std::lock_guard lock(mutex_);
  ForWatched(blob.key(), [&](Entry& entry, Chunks& chunks) {
    (asked_as == FetchClass::kReadahead ? chunks.readahead
     : asked_as == FetchClass::kHint    ? chunks.hint
                                        : chunks.fill)
        .Add(index);
    if (chunks.waited.Has(index)) entry.report.touched.late += blob.geometry().RangeOf(index).length;
  });
}

// ------------------------------------------------------------------------------------------------- life

// REQUIRES: mutex_ is held
Instant StartReports::EndOf(const Entry& entry) const {
  if (entry.ended) return *entry.ended;
  if (entry.first_read) return *entry.first_read + length_;
  return entry.mounted ? *entry.mounted + kFirstReadMax : Instant::max();
}

// REQUIRES: mutex_ is held
void StartReports::NoteFirstRead(Entry& entry, Instant now) {
  if (!entry.first_read) entry.first_read = now;
}

template <typename Visit>
void StartReports::ForWatched(const BlobKey& key, Visit visit) {
  const Instant now = clock_.Now();
  bool ended = false;
  for (auto& [mount_point, entry] : entries_) {
    if (entry.ended) continue;
    if (IsOver(entry, now)) {
      StopWatching(entry, now);
      ended = true;
    } else if (const auto found = entry.chunks.find(key); found != entry.chunks.end()) {
      visit(entry, found->second);
    }
  }
  if (ended) CountWatched();
}

// REQUIRES: mutex_ is held
void StartReports::StopWatching(Entry& entry, Instant now) {
  if (entry.ended) return;
  const Instant end = std::min(now, EndOf(entry));
  if (entry.waiting > 0) entry.report.waiting += end - std::min(entry.waiting_since, end);
  entry.waiting = 0;
  entry.ended = end;
  entry.blobs = {};
  entry.chunks = {};
}

// REQUIRES: mutex_ is held
void StartReports::CountWatched() {
  watched_ = static_cast<size_t>(
      std::count_if(entries_.begin(), entries_.end(), [](const auto& each) { return !each.second.ended; }));
}

std::optional<api::StartReport> StartReports::Of(const std::string& mount_point) const {
  const Instant now = clock_.Now();
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(mount_point);
  if (found == entries_.end() || !found->second.mounted) return std::nullopt;
  const Entry& entry = found->second;
  api::StartReport report = entry.report;
  report.over = IsOver(entry, now);
  const Instant until = std::min(now, EndOf(entry));
  report.watched = std::max(until - *entry.mounted, Duration(0));
  if (entry.waiting > 0) report.waiting += until - std::min(entry.waiting_since, until);
  return report;
}

}  // namespace sluice
