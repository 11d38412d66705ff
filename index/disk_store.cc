#include "index/disk_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "index/disk_error.h"

namespace sluice::index {
namespace {

// Room is reserved in stripes of this size for what arrives in sequence; chunks of a sequence arrive in about
// this order.
constexpr uint64_t kReserveStripeBytes = 16 << 20;
constexpr uint32_t kSequenceGapMax = 8;

absl::Status NoSuchBlob(const Digest& digest) {
  return absl::NotFoundError(absl::StrCat("blob ", digest.ToString(), " is not in the store"));
}

absl::Status RefusedBlob(const Digest& digest) {
  return absl::DataLossError(
      absl::StrCat("blob ", digest.ToString(),
                   " is refused: its bytes are not what its digest promises, or its "
                   "file was lost while in use; unmount and evict it to fetch it anew"));
}

absl::Status EvictedBlob(const Digest& digest) {
  return absl::UnavailableError(
      absl::StrCat("blob ", digest.ToString(), " was evicted meanwhile; open it again"));
}

absl::Status CheckSpec(const BlobSpec& spec) {
  if (spec.size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("blob ", spec.digest.ToString(),
                     " has size 0: the empty blob has nothing to fetch and is not stored"));
  }
  const auto name_ok = [](const std::string& name) {
    return !name.empty() && name.size() <= kOriginNameBytesMax;
  };
  for (const BlobOrigin& origin : spec.origins) {
    if (!name_ok(origin.registry) || !name_ok(origin.repository)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "blob ", spec.digest.ToString(), ": an origin's registry or repository is empty or longer than ",
          kOriginNameBytesMax, " bytes"));
    }
  }
  return ChunkGeometry::Validate(spec.size, spec.chunk_size);
}

absl::Status CheckAgrees(const BlobRecord& known, const BlobSpec& spec) {
  const std::string blob = absl::StrCat("blob ", spec.digest.ToString(), " is known with ");
  if (known.size != spec.size) {
    return absl::InvalidArgumentError(absl::StrCat(blob, "size ", known.size, ", not ", spec.size));
  }
  if (known.chunk_size != spec.chunk_size) {
    return absl::InvalidArgumentError(absl::StrCat(blob, "chunk size ", known.chunk_size, ", not ",
                                                   spec.chunk_size, "; evict it to change that"));
  }
  if (known.root && spec.root && *known.root != *spec.root) {
    return absl::InvalidArgumentError(absl::StrCat(blob, "another root"));
  }
  return absl::OkStatus();
}

void AddOrigins(const std::vector<BlobOrigin>& more, BlobRecord* record) {
  std::vector<BlobOrigin>& origins = record->origins;
  for (const BlobOrigin& origin : more) {
    if (origins.size() == kOriginsMax) return;
    if (std::find(origins.begin(), origins.end(), origin) != origins.end()) continue;
    origins.push_back(origin);
    record->access.push_back(OriginAccess::kUnknown);
  }
}

// What is known after `spec` was heard of.
BlobRecord Merged(BlobRecord record, const BlobSpec& spec) {
  record.size = spec.size;
  record.chunk_size = spec.chunk_size;
  if (!record.root) record.root = spec.root;
  AddOrigins(spec.origins, &record);
  return record;
}

BlobSpec SpecOf(const Digest& digest, const BlobRecord& record) {
  return {digest, record.size, record.chunk_size, record.root, record.origins};
}

// The same blob under a fuller spec.
std::shared_ptr<Blob> Renewed(const Blob& old, BlobSpec spec) {
  auto blob = std::make_shared<Blob>(std::move(spec));
  const ChunkSpan all = old.geometry().All();
  for (ChunkIndex index = all.first; index < all.end(); index = index.next()) {
    if (old.presence().IsPresent(index)) blob->presence().Set(index);
  }
  if (old.refused()) blob->Refuse();
  return blob;
}

class OpenBlobFile final : public BlobFile {
 public:
  explicit OpenBlobFile(FileDescriptor fd) : fd_(std::move(fd)) {}
  int descriptor() const override { return fd_.get(); }

 private:
  const FileDescriptor fd_;
};

int64_t SystemClockMs() {
  const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since_1970).count();
}

BlobInfo InfoOf(BlobEntry& entry) {
  std::lock_guard lock(entry.mutex);
  const Blob& blob = *entry.blob;
  const ChunkGeometry& geometry = blob.geometry();
  const ChunkIndex last(geometry.chunk_count() - 1);
  BlobInfo info;
  info.digest = blob.digest();
  info.size = geometry.size();
  info.chunk_size = geometry.chunk_size();
  info.present_chunks = blob.presence().present_count();
  info.present_bytes = uint64_t{info.present_chunks} * geometry.chunk_size();
  if (info.present_chunks > 0 && blob.presence().IsPresent(last)) {
    info.present_bytes -= geometry.chunk_size() - geometry.RangeOf(last).length;
  }
  info.disk_bytes = entry.disk_bytes;
  info.state = entry.record.state;
  info.pinned = entry.record.pinned;
  info.leases = blob.lease_count();
  info.last_access_ms = entry.record.last_access_ms;
  info.root_known = entry.record.root.has_value();
  return info;
}

}  // namespace

DiskStore::DiskStore(Options options, DataDir data_dir)
    : options_(std::move(options)),
      data_dir_(std::move(data_dir)),
      fds_(data_dir_.blobs_fd(), options_.file_system, options_.open_files_max) {}

DiskStore::~DiskStore() {
  Stop();
}

void DiskStore::Stop() {
  stopping_ = true;
  if (hasher_) hasher_->Stop();
  if (sync_) sync_->Stop();
}

void DiskStore::Flush() {
  sync_->Flush();
}

DiskStore::Entry DiskStore::FindEntry(const Digest& digest) const {
  std::shared_lock lock(map_mutex_);
  const auto found = entries_.find(digest);
  return found == entries_.end() ? nullptr : found->second;
}

std::shared_ptr<Blob> DiskStore::BlobOf(BlobEntry& entry) {
  std::lock_guard lock(entry.mutex);
  return entry.blob;
}

std::vector<DiskStore::Entry> DiskStore::Entries() const {
  std::shared_lock lock(map_mutex_);
  std::vector<Entry> entries;
  entries.reserve(entries_.size());
  for (const auto& [digest, entry] : entries_) entries.push_back(entry);
  return entries;
}

std::shared_ptr<Blob> DiskStore::Find(const Digest& digest) const {
  std::shared_lock lock(map_mutex_);
  const auto found = entries_.find(digest);
  return found == entries_.end() ? nullptr : found->second->blob;
}

absl::StatusOr<Blob::Lease> DiskStore::Acquire(const Digest& digest) const {
  // Evict decides under the exclusive lock, so it either sees the lease or has made the entry go.
  std::shared_lock lock(map_mutex_);
  const auto found = entries_.find(digest);
  if (found == entries_.end()) return NoSuchBlob(digest);
  std::lock_guard entry_lock(found->second->mutex);
  if (found->second->evicting) return NoSuchBlob(digest);
  if (found->second->blob->refused()) return RefusedBlob(digest);
  return Blob::Lease(found->second->blob);
}

absl::StatusOr<std::shared_ptr<Blob>> DiskStore::Open(const BlobSpec& spec) {
  if (absl::Status valid = CheckSpec(spec); !valid.ok()) return valid;
  if (const Entry known = FindEntry(spec.digest)) {
    std::lock_guard lock(known->mutex);
    if (absl::Status agrees = CheckAgrees(known->record, spec); !agrees.ok()) return agrees;
    if (!known->evicting && Merged(known->record, spec) == known->record) return known->blob;
  }
  // An eviction holds this lock until the entry is gone, so what is found now stays.
  std::lock_guard write_lock(write_mutex_);
  const Entry known = FindEntry(spec.digest);
  return known ? Extend(*known, spec) : Register(spec);
}

absl::StatusOr<std::shared_ptr<Blob>> DiskStore::Register(const BlobSpec& spec) {
  if (absl::Status made = MakeFile(spec.digest, spec.size); !made.ok()) return made;
  const BlobRecord record = Merged(BlobRecord{}, spec);
  IndexBatch batch;
  batch.PutBlob(spec.digest, record);
  // Claims come later in the same log, so none of them can outlive the record.
  if (absl::Status written = db_->Write(std::move(batch), IndexDb::Durability::kOrdered); !written.ok()) {
    return written;
  }
  auto blob = std::make_shared<Blob>(SpecOf(spec.digest, record));
  std::unique_lock map_lock(map_mutex_);
  entries_[spec.digest] = std::make_shared<BlobEntry>(blob, record);
  return blob;
}

absl::StatusOr<std::shared_ptr<Blob>> DiskStore::Extend(BlobEntry& entry, const BlobSpec& spec) {
  BlobRecord merged;
  {
    std::lock_guard lock(entry.mutex);
    if (absl::Status agrees = CheckAgrees(entry.record, spec); !agrees.ok()) return agrees;
    merged = Merged(entry.record, spec);
  }
  IndexBatch batch;
  batch.PutBlob(spec.digest, merged);
  if (absl::Status written = db_->Write(std::move(batch), IndexDb::Durability::kOrdered); !written.ok()) {
    return written;
  }
  std::unique_lock map_lock(map_mutex_);
  std::lock_guard lock(entry.mutex);
  entry.record.root = merged.root;
  AddOrigins(merged.origins, &entry.record);
  // A Blob's spec is constant. While somebody uses the old object, it keeps what it knows.
  if (entry.blob.use_count() == 1) {
    const uint32_t unverified = entry.blob->unverified_count();
    entry.blob = Renewed(*entry.blob, SpecOf(spec.digest, merged));
    entry.blob->unverified_count() = unverified;
  }
  return entry.blob;
}

absl::Status DiskStore::MakeFile(const Digest& digest, uint64_t size) {
  const std::string what = absl::StrCat("make the file of blob ", digest.ToString(), " (", size, " bytes)");
  const FileDescriptor fd(options_.file_system.Open(data_dir_.blobs_fd(), digest.Hex(), O_RDWR | O_CREAT));
  if (!fd.valid()) return WriteError(errno, what);
  struct stat stat {};
  if (::fstat(fd.get(), &stat) != 0) return WriteError(errno, what);
  if (!S_ISREG(stat.st_mode))
    return absl::UnavailableError(absl::StrCat(what, ": something else has its name"));
  if (stat.st_size != static_cast<off_t>(size) &&
      options_.file_system.Truncate(fd.get(), static_cast<off_t>(size)) != 0) {
    const absl::Status error = WriteError(errno, what);
    if (stat.st_size == 0) options_.file_system.Unlink(data_dir_.blobs_fd(), digest.Hex());
    return error;
  }
  directory_changed_ = true;
  return absl::OkStatus();
}

absl::Status DiskStore::Commit(Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                               Evidence evidence) {
  if (stopping_) return absl::UnavailableError("the store is stopping");
  if (index.value() >= blob.geometry().chunk_count() ||
      bytes.size() != blob.geometry().RangeOf(index).length) {
    return absl::InvalidArgumentError(absl::StrCat("chunk ", index.value(), " of blob ",
                                                   blob.digest().ToString(), " does not exist or has not ",
                                                   bytes.size(), " bytes"));
  }
  const Entry entry = FindEntry(blob.digest());
  if (!entry) return EvictedBlob(blob.digest());
  std::lock_guard stripe(StripeOf(blob.digest(), index));
  const absl::Status committed = CommitChunk(entry, blob, index, bytes, evidence);
  if (!committed.ok()) options_.telemetry.write_failures.Add();
  return committed;
}

absl::Status DiskStore::CommitChunk(const Entry& entry, Blob& blob, ChunkIndex index,
                                    std::span<const std::byte> bytes, Evidence evidence) {
  bool present = false;
  {
    std::lock_guard lock(entry->mutex);
    if (absl::Status writable = entry->CheckWritable(blob); !writable.ok()) return writable;
    present = blob.presence().IsPresent(index);
    if (present && (evidence == Evidence::kUnverified || entry->verified.Has(index))) return absl::OkStatus();
  }
  if (QueueIsFull()) {
    sync_->Hurry();
    return absl::UnavailableError("too many blobs wait for the disk to sync; try again");
  }
  absl::StatusOr<BlobFdCache::Fd> fd = OpenForWrite(*entry);
  if (!fd.ok()) return fd.status();
  if (present) {
    if (RaiseEvidence(entry, blob, index, bytes, *fd)) return absl::OkStatus();
    if (absl::Status revoked = Revoke(blob, index); !revoked.ok()) return revoked;
  }
  return WriteChunk(entry, blob, index, bytes, evidence, *fd);
}

bool DiskStore::RaiseEvidence(const Entry& entry, const Blob& blob, ChunkIndex index,
                              std::span<const std::byte> bytes, const BlobFdCache::Fd& fd) {
  uint64_t revision = 0;
  {
    std::lock_guard lock(entry->mutex);
    revision = entry->revision;
  }
  if (!HoldsBytes(fd->get(), blob.geometry().RangeOf(index), bytes)) return false;
  {
    std::lock_guard lock(entry->mutex);
    if (entry->revision != revision || !blob.presence().IsPresent(index)) return false;
    entry->AddVerified(index, fd);
  }
  Queue(entry, 0);
  return true;
}

absl::Status DiskStore::WriteChunk(const Entry& entry, const Blob& blob, ChunkIndex index,
                                   std::span<const std::byte> bytes, Evidence evidence,
                                   const BlobFdCache::Fd& fd) {
  bool claimed = false;
  uint64_t write_epoch = 0;
  {
    std::lock_guard lock(entry->mutex);
    claimed = entry->claimed.Has(index);
    write_epoch = entry->write_epoch;
  }
  // Bytes under a claim must not change: a crash in the midst of it would make the claim a lie.
  if (claimed) {
    if (absl::Status dropped = DropClaims(*entry); !dropped.ok()) return dropped;
  }
  if (absl::Status written =
          WriteBytes(fd->get(), RoomFor(blob, index), blob.geometry().RangeOf(index), bytes);
      !written.ok()) {
    return absl::Status(written.code(), absl::StrCat("write chunk ", index.value(), " of blob ",
                                                     blob.digest().ToString(), ": ", written.message()));
  }
  {
    std::lock_guard lock(entry->mutex);
    if (absl::Status writable = entry->CheckWritable(blob); !writable.ok()) return writable;
    if (entry->write_epoch != write_epoch) {
      return absl::UnavailableError(absl::StrCat("chunk ", index.value(), " of blob ",
                                                 blob.digest().ToString(),
                                                 " was written while the disk failed; fetch it again"));
    }
    entry->AddWritten(index, evidence, fd);
  }
  Queue(entry, bytes.size());
  return absl::OkStatus();
}

// A chunk that follows another is probably part of a sequence: room for the whole sequence is reserved at
// once, since a file in hundreds of extents reads measurably slower than one in a few. A chunk that stands
// alone takes no more than its own room.
ByteRange DiskStore::RoomFor(const Blob& blob, ChunkIndex index) {
  const ByteRange range = blob.geometry().RangeOf(index);
  bool follows = false;
  for (uint32_t back = 1; back <= kSequenceGapMax && back <= index.value(); ++back) {
    follows = follows || blob.presence().IsPresent(ChunkIndex(index.value() - back));
  }
  if (!follows) return range;
  const uint64_t stripe_end = (range.offset / kReserveStripeBytes + 1) * kReserveStripeBytes;
  return {range.offset, std::max(range.length, std::min(stripe_end, blob.geometry().size()) - range.offset)};
}

absl::Status DiskStore::Reserve(int fd, ByteRange range) {
  while (reserve_works_ && options_.file_system.Reserve(fd, static_cast<off_t>(range.offset),
                                                        static_cast<off_t>(range.length)) != 0) {
    if (errno == EINTR) continue;
    if (errno != EOPNOTSUPP && errno != ENOSYS) return WriteError(errno, "reserve space");
    reserve_works_ = false;  // then a lack of space shows in the write
  }
  return absl::OkStatus();
}

absl::Status DiskStore::WriteBytes(int fd, ByteRange room, ByteRange range,
                                   std::span<const std::byte> bytes) {
  absl::Status reserved = Reserve(fd, room);
  if (!reserved.ok() && room != range) reserved = Reserve(fd, range);
  if (!reserved.ok()) return reserved;
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = options_.file_system.Pwrite(fd, bytes.data() + done, bytes.size() - done,
                                                      static_cast<off_t>(range.offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return WriteError(errno, "write");
    if (count == 0) return absl::UnavailableError("write: the file takes no more bytes");
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

bool DiskStore::HoldsBytes(int fd, ByteRange range, std::span<const std::byte> bytes) const {
  std::vector<std::byte> found(range.length);
  return ReadFully(options_.file_system, fd, range.offset, found).ok() &&
         std::equal(found.begin(), found.end(), bytes.begin(), bytes.end());
}

absl::StatusOr<BlobFdCache::Fd> DiskStore::OpenForWrite(BlobEntry& entry) {
  const Digest digest = BlobOf(entry)->digest();
  absl::StatusOr<BlobFdCache::Fd> fd = fds_.Get(digest);
  if (!absl::IsNotFound(fd.status())) return fd;
  LoseFile(entry);
  return absl::UnavailableError(absl::StrCat("the file of blob ", digest.ToString(),
                                             " was removed by somebody else; it has been made anew"));
}

absl::Status DiskStore::Revoke(Blob& blob, ChunkIndex index) {
  const Entry entry = FindEntry(blob.digest());
  if (!entry) {
    blob.presence().Clear(index);
    return absl::OkStatus();
  }
  {
    std::lock_guard lock(entry->mutex);
    if (entry->blob.get() != &blob) return EvictedBlob(blob.digest());
    entry->TakeBack(index);
  }
  NotifyRevoked(blob);
  return DropClaims(*entry);
}

absl::StatusOr<std::string> DiskStore::GetRecipe(const Digest& blob) {
  return db_->GetRecipe(blob);
}

absl::Status DiskStore::PutRecipe(const Digest& blob, std::string_view recipe) {
  return db_->PutRecipe(blob, recipe);
}

std::string DiskStore::BlobPath(const Digest& digest) const {
  return data_dir_.BlobPath(digest);
}

std::string DiskStore::blobs_dir() const {
  return data_dir_.blobs_path();
}

absl::StatusOr<FileDescriptor> DiskStore::OpenForRead(const Digest& digest) {
  const Entry entry = FindEntry(digest);
  if (!entry) return NoSuchBlob(digest);
  const std::shared_ptr<Blob> blob = BlobOf(*entry);
  if (blob->refused()) return RefusedBlob(digest);
  FileDescriptor fd(options_.file_system.Open(data_dir_.blobs_fd(), digest.Hex(), O_RDONLY));
  if (!fd.valid() && errno != ENOENT) {
    return WriteError(errno, absl::StrCat("open the file of blob ", digest.ToString()));
  }
  if (fd.valid() && CheckFile(*blob, fd.get()) == FileCheck::kSame) return fd;
  LoseFile(*entry);
  return absl::DataLossError(absl::StrCat("the file of blob ", digest.ToString(),
                                          " was removed or cut short by somebody else; read it again"));
}

absl::StatusOr<std::shared_ptr<const BlobFile>> DiskStore::OpenFile(const Digest& digest) {
  absl::StatusOr<FileDescriptor> fd = OpenForRead(digest);
  if (!fd.ok()) return fd.status();
  return std::make_shared<OpenBlobFile>(*std::move(fd));
}

bool DiskStore::AllProven(const Blob& blob, ChunkSpan span) const {
  const Entry entry = FindEntry(blob.digest());
  if (!entry) return false;
  std::lock_guard lock(entry->mutex);
  if (!blob.presence().AllPresent(span) || entry->evicting || entry->blob.get() != &blob || blob.refused())
    return false;
  if (blob.unverified_count() == 0) return true;
  for (ChunkIndex index = span.first; index < span.end(); index = index.next()) {
    if (!entry->verified.Has(index)) return false;
  }
  return true;
}

void DiskStore::NoteAccess(const Digest& digest, const BlobOrigin& origin, OriginAccess access) {
  const Entry entry = FindEntry(digest);
  if (!entry) return;
  std::lock_guard lock(entry->mutex);
  const auto found = std::find(entry->record.origins.begin(), entry->record.origins.end(), origin);
  if (found == entry->record.origins.end()) return;
  OriginAccess& known = entry->record.access[static_cast<size_t>(found - entry->record.origins.begin())];
  const OriginAccess now = Stronger(known, access);
  if (now == known) return;
  known = now;
  entry->record_changed = true;
}

OriginAccess DiskStore::AccessOf(const Digest& digest, const BlobOrigin& origin) const {
  const Entry entry = FindEntry(digest);
  if (!entry) return OriginAccess::kUnknown;
  std::lock_guard lock(entry->mutex);
  const auto found = std::find(entry->record.origins.begin(), entry->record.origins.end(), origin);
  if (found == entry->record.origins.end()) return OriginAccess::kUnknown;
  const std::vector<OriginAccess>& access = entry->record.access;
  const OriginAccess known = access[static_cast<size_t>(found - entry->record.origins.begin())];
  // Of what credentials brought, a member's word makes nothing public, by whatever name.
  const bool kept = std::find(access.begin(), access.end(), OriginAccess::kCredentials) != access.end();
  return known == OriginAccess::kHearsay && kept ? OriginAccess::kUnknown : known;
}

absl::Status DiskStore::Evict(const Digest& digest, EvictReason reason) {
  const Entry entry = FindEntry(digest);
  if (!entry) return NoSuchBlob(digest);
  if (absl::Status begun = BeginEvict(*entry, reason); !begun.ok()) return begun;
  const std::shared_ptr<Blob> blob = BlobOf(*entry);
  NotifyRevoked(*blob);

  std::lock_guard write_lock(write_mutex_);
  if (absl::Status written = DeleteRecord(*blob); !written.ok()) {
    std::lock_guard lock(entry->mutex);
    entry->evicting = false;
    return written;
  }
  const int unlinked = options_.file_system.Unlink(data_dir_.blobs_fd(), digest.Hex());
  const int error = unlinked == 0 || errno == ENOENT ? 0 : errno;
  fds_.Drop(digest);  // after the file: whoever opened it in between must not keep the dead one in the cache
  uint64_t freed = 0;
  {
    std::lock_guard lock(entry->mutex);
    freed = entry->disk_bytes;
  }
  SetDiskBytes(*entry, 0);
  options_.telemetry.evicted_bytes[static_cast<size_t>(reason)].Add(freed);
  {
    std::unique_lock map_lock(map_mutex_);
    entries_.erase(digest);
  }
  data_dir_.KeepReserve();
  return error == 0 ? absl::OkStatus() : WriteError(error, absl::StrCat("remove ", BlobPath(digest)));
}

absl::Status DiskStore::DeleteRecord(const Blob& blob) {
  const auto write = [&] {
    IndexBatch batch;
    batch.DeleteBlob(blob.digest(), blob.geometry());
    return db_->Write(std::move(batch), IndexDb::Durability::kSynced);
  };
  absl::Status written = write();
  // Making room must not fail for want of room.
  if (absl::IsResourceExhausted(written) && data_dir_.ReleaseReserve()) {
    db_->Reopen();
    written = write();
  }
  if (written.ok() || absl::IsDataLoss(written)) return written;
  // As the last resort the file goes first. A crash before the record has gone leaves claims without a file,
  // which opening the store finds and drops.
  options_.file_system.Unlink(data_dir_.blobs_fd(), blob.digest().Hex());
  fds_.Drop(blob.digest());
  db_->Reopen();
  return write();
}

absl::Status DiskStore::BeginEvict(BlobEntry& entry, EvictReason reason) {
  std::unique_lock map_lock(map_mutex_);
  std::lock_guard lock(entry.mutex);
  const std::string blob = absl::StrCat("blob ", entry.blob->digest().ToString());
  if (entry.evicting) return absl::FailedPreconditionError(absl::StrCat(blob, " is being evicted already"));
  if (const uint32_t leases = entry.blob->lease_count(); leases > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(blob, " is in use (", leases, " leases); unmount what uses it first"));
  }
  if (entry.record.pinned && reason != EvictReason::kCorrupt) {
    return absl::FailedPreconditionError(absl::StrCat(blob, " is pinned; unpin it first"));
  }
  entry.evicting = true;
  entry.TakeBackAll();
  return absl::OkStatus();
}

absl::Status DiskStore::Pin(const Digest& digest) {
  return SetPinned(digest, Pinning::kPinned);
}

absl::Status DiskStore::Unpin(const Digest& digest) {
  return SetPinned(digest, Pinning::kFree);
}

absl::Status DiskStore::SetPinned(const Digest& digest, Pinning pinning) {
  std::lock_guard write_lock(write_mutex_);
  const Entry entry = FindEntry(digest);
  if (!entry) return NoSuchBlob(digest);
  IndexBatch batch;
  {
    std::lock_guard lock(entry->mutex);
    if (entry->evicting) return NoSuchBlob(digest);
    entry->record.pinned = pinning == Pinning::kPinned;
    entry->StageRecord(&batch);
  }
  return db_->Write(std::move(batch), IndexDb::Durability::kSynced);
}

void DiskStore::Touch(const Digest& digest) {
  const Entry entry = FindEntry(digest);
  if (!entry) return;
  // Later accesses get larger numbers whatever the wall clock does, so the order among blobs stands.
  const int64_t now = options_.wall_clock_ms ? options_.wall_clock_ms() : SystemClockMs();
  int64_t last = last_access_ms_;
  while (!last_access_ms_.compare_exchange_weak(last, std::max(now, last + 1))) {
  }
  std::lock_guard lock(entry->mutex);
  entry->record.last_access_ms = std::max(now, last + 1);
  entry->record_changed = true;
}

bool DiskStore::IsSettled(const Digest& digest) const {
  const Entry entry = FindEntry(digest);
  if (!entry) return false;
  std::lock_guard lock(entry->mutex);
  return entry->Settled();
}

absl::StatusOr<BlobInfo> DiskStore::Stat(const Digest& digest) const {
  const Entry entry = FindEntry(digest);
  if (!entry) return NoSuchBlob(digest);
  return InfoOf(*entry);
}

std::vector<BlobInfo> DiskStore::List() const {
  std::vector<BlobInfo> list;
  for (const Entry& entry : Entries()) list.push_back(InfoOf(*entry));
  return list;
}

std::mutex& DiskStore::StripeOf(const Digest& digest, ChunkIndex index) {
  return stripes_[absl::HashOf(digest, index) % stripes_.size()];
}

}  // namespace sluice::index
