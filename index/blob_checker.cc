#include "index/blob_checker.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "index/blob_hasher.h"

namespace sluice::index {

namespace {

absl::Status NobodyWaits() {
  return absl::CancelledError("nobody waits for it any more, or the store is stopping");
}

}  // namespace

absl::StatusOr<VerifyReport> BlobChecker::Verify(const EntryPtr& entry, ChunkVerifier& verifier,
                                                 const CancelCheck& stop,
                                                 const OnVerifyProgress& on_progress) {
  const std::shared_ptr<Blob>& blob = entry->blob;
  uint64_t write_epoch = 0;
  {
    std::lock_guard lock(entry->mutex);
    write_epoch = entry->write_epoch;  // before the file is opened
  }
  const absl::StatusOr<FileDescriptor> file = parts_.guard.OpenForRead(entry);
  if (!file.ok()) return file.status();
  const Reading reading{entry, *blob, file->get(), write_epoch};
  const VerifyChunk verify = [&](const Blob& of, ChunkIndex index, std::span<const std::byte> bytes) {
    return verifier.Verify(of, index, bytes);
  };
  VerifyProgress progress;
  VerifyReport& report = progress.found;
  progress.total_bytes = blob->present_bytes();
  const bool whole_expected = blob->presence().complete() && NeedsWholeHash(*entry, report);
  if (whole_expected) progress.total_bytes += blob->geometry().size();
  const auto tell = [&] {
    // What came or went meanwhile must not end beyond what was announced.
    progress.total_bytes = std::max(progress.total_bytes, progress.read_bytes);
    if (on_progress) on_progress(progress);
  };
  tell();
  std::vector<std::byte> buffer(blob->geometry().chunk_size());
  const ChunkSpan all = blob->geometry().All();
  for (ChunkIndex index = all.first; index < all.end(); index = index.next()) {
    if (stop) return NobodyWaits();
    if (!blob->presence().IsPresent(index)) continue;
    ++report.checked;
    switch (CheckChunk(reading, index, buffer, verify)) {
      case ChunkCheck::kOk:
        ++report.ok;
        break;
      case ChunkCheck::kBad:
        ++report.bad;
        break;
      case ChunkCheck::kUnverifiable:
        ++report.unverifiable;
        break;
    }
    progress.read_bytes += blob->geometry().RangeOf(index).length;
    tell();
  }
  if (report.bad > 0 || !NeedsWholeHash(*entry, report)) return report;
  if (!whole_expected && blob->presence().complete()) progress.total_bytes += blob->geometry().size();
  const WholeCheck whole =
      HoldAgainstDigest(entry, stop, [&, before = progress.read_bytes](uint64_t read_bytes) {
        progress.read_bytes = before + read_bytes;
        tell();
      });
  if (whole == WholeCheck::kInconclusive && stop) return NobodyWaits();
  if (whole == WholeCheck::kDiffers) {
    report.bad += report.ok + report.unverifiable;
    report.ok = report.unverifiable = 0;
  } else if (whole == WholeCheck::kMatches) {
    report.ok += std::exchange(report.unverifiable, 0);
  }
  return report;
}

// Where chunks alone do not say that the blob is what its digest names.
bool BlobChecker::NeedsWholeHash(const BlobEntry& entry, const VerifyReport& found) {
  std::lock_guard lock(entry.mutex);
  return found.unverifiable > 0 || !entry.record.proven;
}

BlobChecker::ChunkCheck BlobChecker::CheckChunk(const Reading& reading, ChunkIndex index,
                                                std::span<std::byte> buffer, const VerifyChunk& verify) {
  uint64_t revision = 0;
  {
    std::lock_guard lock(reading.entry->mutex);
    if (reading.entry->write_epoch != reading.write_epoch) return ChunkCheck::kUnverifiable;
    revision = reading.entry->revision;
  }
  const ByteRange range = reading.blob.geometry().RangeOf(index);
  const std::span<std::byte> bytes = buffer.first(range.length);
  const absl::Status read = ReadFully(parts_.file_system, reading.fd, range.offset, bytes);
  const absl::StatusOr<Evidence> evidence = read.ok() ? verify(reading.blob, index, bytes) : read;
  if (absl::IsDataLoss(evidence.status())) {
    TakeBackBad(reading, index, bytes, evidence.status());
    return ChunkCheck::kBad;
  }
  if (!evidence.ok() || *evidence == Evidence::kUnverified) return ChunkCheck::kUnverifiable;
  RecordVerified(reading, index, revision);
  return ChunkCheck::kOk;
}

void BlobChecker::RecordVerified(const Reading& reading, ChunkIndex index, uint64_t revision) {
  const EntryPtr& entry = reading.entry;
  {
    std::lock_guard lock(entry->mutex);
    if (entry->verified.Has(index)) return;
  }
  absl::StatusOr<FileGuard::Opened> file = parts_.guard.OpenForWrite(entry);
  if (!file.ok()) return;
  {
    std::lock_guard lock(entry->mutex);
    if (entry->revision != revision || entry->write_epoch != reading.write_epoch ||
        !reading.blob.presence().IsPresent(index)) {
      return;
    }
    entry->AddVerified(index, file->fd);
  }
  parts_.syncer.Queue(entry, 0);
}

void BlobChecker::Check(const EntryPtr& entry, const std::atomic<bool>& stop) {
  CheckUnproven(entry, stop);
  CheckWhole(entry, stop);
}

// One after the other, in one thread of low priority. Ends with the first that no recipe can prove.
void BlobChecker::CheckUnproven(const EntryPtr& entry, const std::atomic<bool>& stop) {
  Blob& blob = *entry->blob;
  ChunkSet unproven = blob.presence().Snapshot();
  uint64_t write_epoch = 0;
  {
    std::lock_guard lock(entry->mutex);
    if (!parts_.verify_chunk || !entry->record.root || blob.unverified_count() == 0) return;
    write_epoch = entry->write_epoch;
    unproven.Subtract(entry->verified);
  }
  const absl::StatusOr<FileDescriptor> file = parts_.guard.OpenForRead(entry);
  if (!file.ok()) return;
  const Reading reading{entry, blob, file->get(), write_epoch};
  std::vector<std::byte> buffer(blob.geometry().chunk_size());
  const ChunkSpan all = blob.geometry().All();
  for (ChunkIndex index = unproven.NextSet(all); index < all.end() && !stop;) {
    const bool is_here = blob.presence().IsPresent(index);
    if (is_here && CheckChunk(reading, index, buffer, parts_.verify_chunk) == ChunkCheck::kUnverifiable)
      return;
    index = unproven.NextSet({index.next(), all.end().value() - index.next().value()});
  }
}

void BlobChecker::CheckWhole(const EntryPtr& entry, const std::atomic<bool>& stop) {
  {
    std::lock_guard lock(entry->mutex);
    if (!entry->Durable() || (entry->Settled() && (entry->record.root || !parts_.make_recipe))) return;
  }
  HoldAgainstDigest(entry, stop);
}

BlobChecker::WholeCheck BlobChecker::HoldAgainstDigest(const EntryPtr& entry, const CancelCheck& stop,
                                                       const std::function<void(uint64_t)>& on_read) {
  const std::shared_ptr<Blob>& blob = entry->blob;
  if (!blob->presence().complete()) return WholeCheck::kInconclusive;
  const absl::StatusOr<FileGuard::Opened> file = parts_.guard.OpenForWrite(entry);
  if (!file.ok()) return WholeCheck::kInconclusive;
  uint64_t failed_at = 0;
  const std::unique_ptr<RecipeMaker> maker = RecipeToMake(*entry);
  const absl::StatusOr<Digest> hash = HashFile(parts_.file_system, file->fd->get(), blob->geometry().size(),
                                               stop, &failed_at, maker.get(), on_read);
  if (absl::IsDataLoss(hash.status())) {
    TakeBackRotten(entry, *blob, blob->geometry().ChunkAt(failed_at), hash.status());
    return WholeCheck::kInconclusive;
  }
  if (!hash.ok()) return WholeCheck::kInconclusive;
  {
    std::lock_guard lock(entry->mutex);
    if (entry->revision != file->revision || !blob->presence().complete()) return WholeCheck::kInconclusive;
  }
  if (*hash != blob->digest()) {
    TakeBackWrong(entry, *hash);
    return WholeCheck::kDiffers;
  }
  const std::optional<Digest> root = maker ? KeepRecipe(*entry, *maker) : std::nullopt;
  if (absl::Status claimed = parts_.log.ClaimVerifiedWhole(*entry, file->revision, root); !claimed.ok()) {
    Alarm(std::string(claimed.message()));
  }
  parts_.syncer.Settle(entry);
  return WholeCheck::kMatches;
}

// Where the root is not known, or has not vouched for every chunk, the blob gets one of this node's own: so a
// chunk that the disk spoils later can be had again from whoever has it.
std::unique_ptr<RecipeMaker> BlobChecker::RecipeToMake(const BlobEntry& entry) const {
  std::lock_guard lock(entry.mutex);
  if (!parts_.make_recipe || (entry.record.root && entry.blob->unverified_count() == 0)) return nullptr;
  return parts_.make_recipe(entry.record.chunk_size);
}

// The root that is proven with it. Without one the blob is as good as before.
std::optional<Digest> BlobChecker::KeepRecipe(const BlobEntry& entry, RecipeMaker& maker) {
  const absl::StatusOr<RecipeMaker::Made> made = maker.Finish();
  absl::Status kept = made.status();
  if (kept.ok()) kept = parts_.recipes.Put(entry.id, made->recipe);
  if (kept.ok()) return made->root;
  Alarm(absl::StrCat("the recipe of ", entry.Name(), " can't be kept: ", std::string(kept.message())));
  return std::nullopt;
}

// One that had been proven was spoilt by the disk; for another its sender may be to blame.
void BlobChecker::TakeBackBad(const Reading& reading, ChunkIndex index, std::span<const std::byte> bytes,
                              const absl::Status& why) {
  bool was_proven = false;
  {
    std::lock_guard lock(reading.entry->mutex);
    was_proven = reading.entry->verified.Has(index);
  }
  if (was_proven || !parts_.on_wrong_chunk) return TakeBackRotten(reading.entry, reading.blob, index, why);
  parts_.telemetry.verify_failures[static_cast<size_t>(SourceKind::kLocal)].Add();
  Task after = parts_.on_wrong_chunk(reading.blob, index, bytes);
  const absl::Status revoked = parts_.writer.Revoke(reading.entry, reading.blob, index);
  if (!revoked.ok()) Alarm(std::string(revoked.message()));
  if (after) std::move(after)();
}

void BlobChecker::TakeBackRotten(const EntryPtr& entry, Blob& blob, ChunkIndex index,
                                 const absl::Status& why) {
  parts_.telemetry.verify_failures[static_cast<size_t>(SourceKind::kLocal)].Add();
  Alarm(absl::StrCat("chunk ", index.value(), " of ", entry->Name(),
                     " is damaged on disk and will be fetched again: ", why.message()));
  const absl::Status revoked = parts_.writer.Revoke(entry, blob, index);
  if (!revoked.ok()) Alarm(std::string(revoked.message()));
}

// Where each chunk was proven when it was written, or the whole blob once, either the disk has changed it,
// or a claim of a root is wrong: nobody knows, so it is had once more. So is what others may give right, if
// no mount has shown it to readers.
void BlobChecker::TakeBackWrong(const EntryPtr& entry, const Digest& found) {
  const std::string what = absl::StrCat("the file of ", entry->Name(), " has the digest ", found.ToString());
  bool refuse = false;
  {
    std::lock_guard lock(entry->mutex);
    const bool again =
        entry->blob->unverified_count() == 0 || (entry->blob->file_lease_count() == 0 && parts_.had_again &&
                                                 !entry->wrong_before && parts_.had_again(*entry->blob));
    refuse = !again || std::exchange(entry->wrong_before, true);
    if (!refuse) {
      entry->TakeBackAll();
      parts_.notifier.Schedule(entry);
    }
  }
  if (refuse) return parts_.guard.Refuse(entry, what);
  parts_.telemetry.verify_failures[static_cast<size_t>(SourceKind::kLocal)].Add();
  Alarm(absl::StrCat(what,
                     ": it was damaged on disk, its recipe is not its own, or a member sent wrong bytes "
                     "that nothing could prove; it will be fetched again"));
  absl::Status dropped = parts_.log.Drop(*entry);
  if (dropped.ok()) dropped = parts_.notifier.WaitTold(entry);
  if (!dropped.ok()) Alarm(std::string(dropped.message()));
}

}  // namespace sluice::index
