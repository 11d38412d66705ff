#include "index/blob_entry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::index {

BlobEntry::BlobEntry(std::shared_ptr<Blob> the_blob, BlobRecord the_record)
    : blob(std::move(the_blob)),
      record(std::move(the_record)),
      claimed(blob->geometry().chunk_count()),
      verified(blob->geometry().chunk_count()) {}

void BlobEntry::Load(SegmentIndex segment, const PresenceSegment& value) {
  const ChunkSpan span = segment.ChunksIn(blob->geometry());
  for (uint32_t i = 0; i < value.chunk_count; ++i) {
    if (!(value.present[i / 64] >> (i % 64) & 1)) continue;
    const ChunkIndex index(span.first.value() + i);
    claimed.Add(index);
    blob->presence().Set(index);
    if (value.verified[i / 64] >> (i % 64) & 1) {
      verified.Add(index);
    } else {
      ++blob->unverified_count();
    }
  }
}

absl::Status BlobEntry::CheckWritable(const Blob& written) const {
  if (evicting || blob.get() != &written) {
    return absl::UnavailableError(
        absl::StrCat("blob ", written.digest().ToString(), " was evicted meanwhile; open it again"));
  }
  if (blob->refused()) {
    return absl::DataLossError(
        absl::StrCat("blob ", written.digest().ToString(), " is refused; evict it to fetch it anew"));
  }
  return absl::OkStatus();
}

void BlobEntry::AddWritten(ChunkIndex index, Evidence evidence, const BlobFdCache::Fd& fd) {
  if (evidence == Evidence::kVerified) {
    verified.Add(index);
  } else {
    ++blob->unverified_count();
  }
  // The pending list is guarded by the same lock, so no batch can end between the bit and its entry there.
  blob->presence().Set(index);
  pending.push_back(index);
  if (!sync_fd) sync_fd = fd;
}

void BlobEntry::AddVerified(ChunkIndex index, const BlobFdCache::Fd& fd) {
  if (verified.Has(index)) return;
  verified.Add(index);
  --blob->unverified_count();
  pending.push_back(index);
  if (!sync_fd) sync_fd = fd;
}

void BlobEntry::ChangeState(BlobState state) {
  if (record.state == state) return;
  record.state = state;
  record_changed = true;
}

void BlobEntry::Forget(ChunkIndex index) {
  // The mirror is cleared with the bit, before anything else: readers must stop first.
  if (blob->presence().Clear(index) && !verified.Has(index)) --blob->unverified_count();
  verified.Remove(index);
}

void BlobEntry::TakeBack(ChunkIndex index) {
  Forget(index);
  std::erase(pending, index);
  std::erase(syncing, index);
  if (record.state == BlobState::kVerifiedWhole) ChangeState(BlobState::kActive);
  announced = false;
  ++revision;
}

void BlobEntry::TakeBackAll() {
  blob->presence().ClearAll();
  blob->unverified_count() = 0;
  verified.Clear();
  pending.clear();
  syncing.clear();
  sync_fd.reset();
  if (record.state == BlobState::kVerifiedWhole) ChangeState(BlobState::kActive);
  announced = false;
  ++write_epoch;
  ++revision;
}

void BlobEntry::TakeBackUnclaimed() {
  for (const std::vector<ChunkIndex>& list : {std::exchange(pending, {}), std::exchange(syncing, {})}) {
    for (const ChunkIndex index : list) Forget(index);
  }
  if (record.state == BlobState::kVerifiedWhole) ChangeState(BlobState::kActive);
  sync_fd.reset();
  announced = false;
  ++write_epoch;
  ++revision;
}

BlobFdCache::Fd BlobEntry::BeginSync() {
  queued = false;
  syncing = std::exchange(pending, {});
  return syncing.empty() ? nullptr : sync_fd;
}

PresenceSegment BlobEntry::ClaimsOf(SegmentIndex segment) const {
  const ChunkSpan span = segment.ChunksIn(blob->geometry());
  PresenceSegment value;
  value.chunk_count = span.count;
  for (uint32_t i = 0; i < span.count; ++i) {
    const ChunkIndex index(span.first.value() + i);
    if (!claimed.Has(index) || !blob->presence().IsPresent(index)) continue;
    value.present[i / 64] |= uint64_t{1} << (i % 64);
    if (verified.Has(index)) value.verified[i / 64] |= uint64_t{1} << (i % 64);
  }
  return value;
}

void BlobEntry::StageRecord(IndexBatch* batch) {
  batch->PutBlob(blob->digest(), record);
  record_changed = false;
}

void BlobEntry::StageClaims(IndexBatch* batch) {
  if (evicting) return;
  std::vector<SegmentIndex> segments;
  for (const ChunkIndex index : syncing) {
    claimed.Add(index);
    segments.push_back(SegmentIndex::Of(index));
  }
  std::sort(segments.begin(), segments.end());
  segments.erase(std::unique(segments.begin(), segments.end()), segments.end());
  for (const SegmentIndex segment : segments) batch->PutSegment(blob->digest(), segment, ClaimsOf(segment));
  if (record_changed) StageRecord(batch);
}

void BlobEntry::EndSync() {
  syncing.clear();
  if (pending.empty()) sync_fd.reset();
}

std::vector<ChunkIndex> BlobEntry::StageDrops(IndexBatch* batch) {
  std::vector<ChunkIndex> drops;
  if (evicting) return drops;
  const uint32_t segments = SegmentIndex::CountIn(blob->geometry());
  for (SegmentIndex segment(0); segment.value() < segments; segment = SegmentIndex(segment.value() + 1)) {
    const size_t before = drops.size();
    const ChunkSpan span = segment.ChunksIn(blob->geometry());
    for (ChunkIndex index = span.first; index < span.end(); index = index.next()) {
      if (claimed.Has(index) && !blob->presence().IsPresent(index)) drops.push_back(index);
    }
    if (drops.size() > before) batch->PutSegment(blob->digest(), segment, ClaimsOf(segment));
  }
  if (record_changed) StageRecord(batch);
  return drops;
}

void BlobEntry::StageVerifiedWhole(IndexBatch* batch) {
  const ChunkSpan all = blob->geometry().All();
  for (ChunkIndex index = all.first; index < all.end(); index = index.next()) verified.Add(index);
  blob->unverified_count() = 0;
  ChangeState(BlobState::kVerifiedWhole);
  StageRecord(batch);
  const uint32_t segments = SegmentIndex::CountIn(blob->geometry());
  for (SegmentIndex segment(0); segment.value() < segments; segment = SegmentIndex(segment.value() + 1)) {
    batch->PutSegment(blob->digest(), segment, ClaimsOf(segment));
  }
}

bool BlobEntry::Durable() const {
  return blob->presence().complete() && !Unclaimed() && !blob->refused() && !evicting;
}

}  // namespace sluice::index
