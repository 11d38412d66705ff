#include "index/blob_entry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::index {

namespace {

std::string ClaimantOf(const Blob& blob, const BlobRecord& record) {
  if (blob.key().IsOf(blob.digest()) || record.origins.empty()) return {};
  return absl::StrCat(record.origins.back().registry, "/", record.origins.back().repository);
}

}  // namespace

BlobSpec FactsOf(const Digest& digest, const BlobRecord& record) {
  BlobSpec facts{digest, record.size, record.chunk_size, record.root, {}, record.stored, record.is_hearsay};
  for (const bool has_given : {true, false}) {
    for (size_t i = 0; i < record.origins.size(); ++i) {
      if ((record.access[i] != OriginAccess::kUnknown) == has_given)
        facts.origins.push_back(record.origins[i]);
    }
  }
  return facts;
}

BlobEntry::BlobEntry(std::shared_ptr<Blob> the_blob, BlobRecord the_record)
    : id(the_blob->key()),
      blob(std::move(the_blob)),
      claimant(ClaimantOf(*blob, the_record)),
      record(std::move(the_record)),
      claimed(blob->geometry().chunk_count()),
      verified(blob->geometry().chunk_count()) {}

void BlobEntry::Load(SegmentIndex segment, const PresenceSegment& value) {
  const ChunkIndex first = segment.ChunksIn(blob->geometry()).first;
  claimed.AddSlice(first, value.present);
  // Its refusal was recorded, and what was to drop its claims was not.
  if (blob->refused()) return;
  verified.AddSlice(first, value.verified);
  blob->presence().SetSlice(first, value.present);
  blob->unverified_count() += value.present.Count() - value.verified.Count();
}

BlobSpec BlobEntry::Facts() const {
  return FactsOf(blob->digest(), record);
}

std::string BlobEntry::Name() const {
  const std::string name = absl::StrCat("blob ", blob->digest().ToString());
  return claimant.empty() ? name : absl::StrCat(name, " as ", claimant, " has it");
}

absl::Status BlobEntry::CheckWritable(const Blob& written, Evidence evidence) const {
  if (evicting || blob.get() != &written) {
    return absl::NotFoundError(
        absl::StrCat("blob ", written.digest().ToString(), " was evicted meanwhile; open it again"));
  }
  if (blob->refused()) {
    return absl::DataLossError(
        absl::StrCat("blob ", written.digest().ToString(), " is refused; evict it to fetch it anew"));
  }
  if (evidence == Evidence::kUnverified && record.origins.size() > 1) {
    return absl::FailedPreconditionError(absl::StrCat(
        "blob ", written.digest().ToString(),
        " is shared by images of several repositories, and its recipe is missing: what one of them "
        "gives can't be checked for the others; unmount them and mount them again"));
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

void BlobEntry::TookBack() {
  if (record.state == BlobState::kVerifiedWhole) ChangeState(BlobState::kActive);
  announced = announce_due = false;
  ++revision;
}

void BlobEntry::TakeBack(ChunkIndex index) {
  Forget(index);
  std::erase(pending, index);
  std::erase(syncing, index);
  TookBack();
}

void BlobEntry::TakeBackAll() {
  blob->presence().ClearAll();
  blob->unverified_count() = 0;
  verified.Clear();
  pending.clear();
  syncing.clear();
  sync_fd.reset();
  ++write_epoch;
  TookBack();
}

void BlobEntry::TakeBackUnclaimed() {
  for (const std::vector<ChunkIndex>& list : {std::exchange(pending, {}), std::exchange(syncing, {})}) {
    for (const ChunkIndex index : list) Forget(index);
  }
  sync_fd.reset();
  ++write_epoch;
  TookBack();
}

void BlobEntry::ForgetFile() {
  lost_chunks += blob->presence().present_count();
  TakeBackAll();
  record.file.reset();
  was_imported = record.is_imported;
  record.is_imported = false;
  room.Clear();
}

void BlobEntry::SetFile(const FileIdentity& file) {
  record.file = file;
  record_changed = true;
}

BlobFdCache::Fd BlobEntry::BeginSync() {
  queued = false;
  syncing = std::exchange(pending, {});
  return syncing.empty() ? nullptr : sync_fd;
}

PresenceSegment BlobEntry::ClaimsOf(SegmentIndex segment, const ChunkSet& present) const {
  const ChunkSpan span = segment.ChunksIn(blob->geometry());
  PresenceSegment value(span.count);
  value.present = claimed.Slice(span);
  value.present.IntersectWith(present.Slice(span));
  value.verified = verified.Slice(span);
  value.verified.IntersectWith(value.present);
  return value;
}

void BlobEntry::StageRecord(IndexBatch* batch) {
  batch->PutBlob(id, record);
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
  const ChunkSet present = blob->presence().Snapshot();
  for (const SegmentIndex segment : segments) batch->PutSegment(id, segment, ClaimsOf(segment, present));
  if (record_changed) StageRecord(batch);
}

void BlobEntry::EndSync() {
  syncing.clear();
  if (pending.empty()) sync_fd.reset();
}

ChunkSet BlobEntry::StageDrops(IndexBatch* batch) {
  if (evicting) return ChunkSet(claimed.chunk_count());
  const ChunkSet present = blob->presence().Snapshot();
  ChunkSet drops = claimed;
  drops.Subtract(present);
  const ChunkSpan all = blob->geometry().All();
  for (ChunkIndex next = drops.NextSet(all); next < all.end();) {
    const SegmentIndex segment = SegmentIndex::Of(next);
    batch->PutSegment(id, segment, ClaimsOf(segment, present));
    const ChunkIndex end = segment.ChunksIn(blob->geometry()).end();
    next = drops.NextSet({end, all.count - end.value()});
  }
  if (record_changed) StageRecord(batch);
  return drops;
}

void BlobEntry::StageVerifiedWhole(const std::optional<Digest>& root, IndexBatch* batch) {
  if (root || blob->unverified_count() > 0) record.root = root;
  blob->SetFacts(Facts());
  record.proven = true;
  record.is_hearsay = false;
  verified.Add(blob->geometry().All());
  blob->unverified_count() = 0;
  ChangeState(BlobState::kVerifiedWhole);
  StageRecord(batch);
  const ChunkSet present = blob->presence().Snapshot();
  const uint32_t segments = SegmentIndex::CountIn(blob->geometry());
  for (SegmentIndex segment(0); segment.value() < segments; segment = SegmentIndex(segment.value() + 1)) {
    batch->PutSegment(id, segment, ClaimsOf(segment, present));
  }
}

bool BlobEntry::Durable() const {
  return blob->presence().complete() && !Unclaimed() && !blob->refused() && !evicting;
}

}  // namespace sluice::index
