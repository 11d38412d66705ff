// Holding what is on disk against what it should be: files, chunks, whole blobs.
#include <fcntl.h>
#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "index/disk_store.h"

namespace sluice::index {

void DiskStore::Alarm(const std::string& text) const {
  if (options_.alarm) options_.alarm(text);
}

DiskStore::FileCheck DiskStore::CheckFile(const Blob& blob, int fd) const {
  struct stat open {};
  struct stat named {};
  const bool same =
      ::fstat(fd, &open) == 0 &&
      ::fstatat(data_dir_.blobs_fd(), blob.digest().Hex().c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
      open.st_ino == named.st_ino && open.st_dev == named.st_dev && S_ISREG(open.st_mode) &&
      static_cast<uint64_t>(open.st_size) >= blob.geometry().size();
  return same ? FileCheck::kSame : FileCheck::kLost;
}

size_t DiskStore::CheckFiles() {
  size_t lost = 0;
  for (const Entry& entry : Entries()) {
    const std::shared_ptr<Blob> blob = BlobOf(*entry);
    struct stat named {};
    const bool whole =
        ::fstatat(data_dir_.blobs_fd(), blob->digest().Hex().c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(named.st_mode) && static_cast<uint64_t>(named.st_size) >= blob->geometry().size();
    if (whole || blob->refused()) continue;
    LoseFile(*entry);
    ++lost;
  }
  return lost;
}

void DiskStore::LoseFile(BlobEntry& entry) {
  std::shared_ptr<Blob> blob;
  {
    std::lock_guard lock(entry.mutex);
    if (entry.evicting) return;
    blob = entry.blob;
  }
  const std::string what = absl::StrCat("the file of blob ", blob->digest().ToString(),
                                        " was removed or cut short by somebody else");
  if (blob->lease_count() > 0) {
    Refuse(entry, what);
    return;
  }
  {
    std::lock_guard lock(entry.mutex);
    entry.TakeBackAll();
  }
  NotifyRevoked(*blob);
  fds_.Drop(blob->digest());
  SetDiskBytes(entry, 0);
  Alarm(absl::StrCat(what, "; its chunks will be fetched again"));
  // In this order: over a new file, the old claims would be lies.
  absl::Status repaired = DropClaims(entry);
  if (repaired.ok()) repaired = MakeFile(blob->digest(), blob->geometry().size());
  if (!repaired.ok()) Alarm(std::string(repaired.message()));
}

void DiskStore::Refuse(BlobEntry& entry, const std::string& why) {
  std::shared_ptr<Blob> blob;
  {
    std::lock_guard lock(entry.mutex);
    if (entry.evicting || entry.blob->refused()) return;
    blob = entry.blob;
    blob->Refuse();
    entry.TakeBackAll();
    entry.record.state = BlobState::kRefused;
  }
  NotifyRevoked(*blob);
  Alarm(absl::StrCat(why, "; blob ", blob->digest().ToString(),
                     " is refused from now on: unmount and evict it to fetch it anew"));

  std::lock_guard write_lock(write_mutex_);
  IndexBatch batch;
  {
    std::lock_guard lock(entry.mutex);
    if (entry.evicting) return;
    batch.DeleteSegments(blob->digest(), blob->geometry());
    entry.StageRecord(&batch);
  }
  const absl::Status written = db_->Write(std::move(batch), IndexDb::Durability::kSynced);
  options_.telemetry.blobs_refused.Add();  // not before: whoever has seen the count may kill the node
  if (!written.ok()) {
    Alarm(absl::StrCat("the refusal of blob ", blob->digest().ToString(),
                       " is not recorded: ", written.message()));
    return;
  }
  std::lock_guard lock(entry.mutex);
  entry.claimed.Clear();
}

absl::StatusOr<VerifyReport> DiskStore::Verify(const Digest& digest, ChunkVerifier& verifier) {
  const absl::StatusOr<FileDescriptor> file = OpenForRead(digest);
  if (!file.ok()) return file.status();
  const Entry entry = FindEntry(digest);
  if (!entry) return absl::NotFoundError(absl::StrCat("blob ", digest.ToString(), " was evicted meanwhile"));
  const std::shared_ptr<Blob> blob = BlobOf(*entry);
  VerifyReport report;
  std::vector<std::byte> buffer(blob->geometry().chunk_size());
  const ChunkSpan all = blob->geometry().All();
  for (ChunkIndex index = all.first; index < all.end(); index = index.next()) {
    if (stopping_) return absl::UnavailableError("the store is stopping");
    if (!blob->presence().IsPresent(index)) continue;
    ++report.checked;
    switch (VerifyChunk(entry, *blob, index, file->get(), buffer, verifier)) {
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
  }
  if (report.unverifiable == 0 || report.bad > 0) return report;
  const WholeCheck whole = HoldAgainstDigest(entry, stopping_);
  if (whole == WholeCheck::kInconclusive) return report;
  (whole == WholeCheck::kMatches ? report.ok : report.bad) += std::exchange(report.unverifiable, 0);
  return report;
}

DiskStore::ChunkCheck DiskStore::VerifyChunk(const Entry& entry, Blob& blob, ChunkIndex index, int fd,
                                             std::span<std::byte> buffer, ChunkVerifier& verifier) {
  uint64_t revision = 0;
  {
    std::lock_guard lock(entry->mutex);
    revision = entry->revision;
  }
  const ByteRange range = blob.geometry().RangeOf(index);
  const std::span<std::byte> bytes = buffer.first(range.length);
  const absl::Status read = ReadFully(options_.file_system, fd, range.offset, bytes);
  const absl::StatusOr<Evidence> evidence = read.ok() ? verifier.Verify(blob, index, bytes) : read;
  if (absl::IsDataLoss(evidence.status())) {
    TakeBackRotten(blob, index, evidence.status());
    return ChunkCheck::kBad;
  }
  if (!evidence.ok() || *evidence == Evidence::kUnverified) return ChunkCheck::kUnverifiable;
  if (RecordVerified(entry, blob, index, revision)) Queue(entry, 0);
  return ChunkCheck::kOk;
}

bool DiskStore::RecordVerified(const Entry& entry, const Blob& blob, ChunkIndex index, uint64_t revision) {
  {
    std::lock_guard lock(entry->mutex);
    if (entry->verified.Has(index)) return false;
  }
  absl::StatusOr<BlobFdCache::Fd> fd = OpenForWrite(*entry);
  std::lock_guard lock(entry->mutex);
  if (!fd.ok() || entry->revision != revision || !blob.presence().IsPresent(index)) return false;
  entry->AddVerified(index, *fd);
  return true;
}

void DiskStore::CheckWhole(const Digest& digest, const std::atomic<bool>& stop) {
  const Entry entry = FindEntry(digest);
  if (!entry) return;
  {
    std::lock_guard lock(entry->mutex);
    if (!entry->Durable() || entry->Settled()) return;
  }
  HoldAgainstDigest(entry, stop);
}

DiskStore::WholeCheck DiskStore::HoldAgainstDigest(const Entry& entry, const std::atomic<bool>& stop) {
  uint64_t revision = 0;
  BlobState known = BlobState::kActive;
  std::shared_ptr<Blob> blob;
  {
    std::lock_guard lock(entry->mutex);
    if (!entry->blob->presence().complete()) return WholeCheck::kInconclusive;
    revision = entry->revision;
    if (entry->blob->unverified_count() == 0) known = BlobState::kVerifiedWhole;
    blob = entry->blob;
  }
  const absl::StatusOr<BlobFdCache::Fd> fd = OpenForWrite(*entry);
  if (!fd.ok()) return WholeCheck::kInconclusive;
  uint64_t failed_at = 0;
  const absl::StatusOr<Digest> hash =
      HashFile(options_.file_system, (*fd)->get(), blob->geometry().size(), stop, &failed_at);
  if (absl::IsDataLoss(hash.status())) {
    TakeBackRotten(*blob, blob->geometry().ChunkAt(failed_at), hash.status());
    return WholeCheck::kInconclusive;
  }
  if (!hash.ok()) return WholeCheck::kInconclusive;
  {
    std::lock_guard lock(entry->mutex);
    if (entry->revision != revision) return WholeCheck::kInconclusive;
  }
  if (*hash != blob->digest()) {
    TakeBackWrong(*entry, known, *hash);
    return WholeCheck::kDiffers;
  }
  MarkVerifiedWhole(*entry, revision);
  Queue(entry, 0);
  return WholeCheck::kMatches;
}

void DiskStore::TakeBackRotten(Blob& blob, ChunkIndex index, const absl::Status& why) {
  options_.telemetry.verify_failures[static_cast<size_t>(SourceKind::kLocal)].Add();
  Alarm(absl::StrCat("chunk ", index.value(), " of blob ", blob.digest().ToString(),
                     " is damaged on disk and will be fetched again: ", why.message()));
  if (absl::Status revoked = Revoke(blob, index); !revoked.ok()) Alarm(std::string(revoked.message()));
}

void DiskStore::TakeBackWrong(BlobEntry& entry, BlobState known, const Digest& found) {
  const std::shared_ptr<Blob> blob = BlobOf(entry);
  const std::string what =
      absl::StrCat("the file of blob ", blob->digest().ToString(), " has the digest ", found.ToString());
  if (known != BlobState::kVerifiedWhole) {
    Refuse(entry, what);
    return;
  }
  // It was right once, so the disk has changed it: nobody lied, and the bytes can be had again.
  {
    std::lock_guard lock(entry.mutex);
    entry.TakeBackAll();
  }
  NotifyRevoked(*blob);
  options_.telemetry.verify_failures[static_cast<size_t>(SourceKind::kLocal)].Add();
  Alarm(absl::StrCat(what, ": it was damaged on disk and will be fetched again"));
  if (absl::Status dropped = DropClaims(entry); !dropped.ok()) Alarm(std::string(dropped.message()));
}

void DiskStore::MarkVerifiedWhole(BlobEntry& entry, uint64_t revision) {
  std::lock_guard write_lock(write_mutex_);
  IndexBatch batch;
  {
    std::lock_guard lock(entry.mutex);
    if (entry.revision != revision || entry.evicting) return;
    entry.StageVerifiedWhole(&batch);
  }
  // If this is lost, the blob is hashed once more after a restart: a cost, not an error.
  if (absl::Status written = db_->Write(std::move(batch), IndexDb::Durability::kSynced); !written.ok()) {
    Alarm(std::string(written.message()));
  }
}

}  // namespace sluice::index
