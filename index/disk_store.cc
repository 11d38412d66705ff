#include "index/disk_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/wall_clock.h"

namespace sluice::index {
namespace {

absl::Status NoSuchBlob(const BlobKey& key) {
  return absl::NotFoundError(absl::StrCat(key.ToString(), " is not in the store"));
}

class OpenBlobFile final : public BlobFile {
 public:
  explicit OpenBlobFile(FileDescriptor fd) : fd_(std::move(fd)) {}
  int descriptor() const override { return fd_.get(); }

 private:
  const FileDescriptor fd_;
};

// Whether that says something new: not for each of many reads, which would be a write each.
bool NotePublicAt(const BlobOrigin& origin, OriginAccess access, int64_t at_ms, int64_t now_ms,
                  BlobRecord* record) {
  constexpr int64_t kStepMs = 1000;
  if (!IsPublic(access) || at_ms <= 0) return false;
  const auto [known, is_first] = record->public_at_ms.try_emplace(origin, at_ms);
  if (is_first) return true;
  const bool was_set_back = known->second > now_ms;  // the clock
  if (!was_set_back && at_ms < known->second + kStepMs) return false;
  known->second = at_ms;
  return true;
}

BlobInfo InfoOf(const BlobEntry& entry) {
  std::lock_guard lock(entry.mutex);
  const Blob& blob = *entry.blob;
  BlobInfo info;
  info.key = blob.key();
  info.digest = blob.digest();
  info.origins = entry.record.origins;
  info.stored = entry.record.stored;
  info.size = blob.geometry().size();
  info.chunk_size = blob.geometry().chunk_size();
  info.present_chunks = blob.presence().present_count();
  info.present_bytes = blob.present_bytes();
  info.disk_bytes = entry.disk_bytes;
  info.state = entry.record.state;
  info.refused = blob.refused();
  info.pinned = entry.record.pinned;
  info.leases = blob.lease_count();
  info.last_access_ms = entry.record.last_access_ms;
  info.root_known = entry.record.root.has_value();
  return info;
}

}  // namespace

DiskStore::DiskStore(Options options, DataDir data_dir, std::unique_ptr<EntryTable> table, LoadedIndex index)
    : options_(std::move(options)),
      data_dir_(std::move(data_dir)),
      table_(std::move(table)),
      usage_(data_dir_.path(), options_.telemetry),
      content_(options_.content_dir),
      files_(data_dir_, options_.file_system, content_, options_.open_files_max),
      recipes_(data_dir_, options_.file_system),
      log_(std::move(index.db)),
      notifier_({options_.on_complete, options_.on_revoke, options_.alarm}, options_.threads,
                options_.notice_wait_max),
      guard_({files_, log_, notifier_, usage_, options_.telemetry, options_.alarm}),
      syncer_({options_.file_system, files_, guard_, log_, notifier_, *table_, usage_, options_.telemetry,
               options_.alarm, [this](const BlobKey& id) { hasher_.Enqueue(id); }},
              {options_.sync_interval, options_.sync_bytes_max}, options_.threads),
      writer_({options_.file_system, guard_, log_, notifier_, syncer_, usage_}),
      checker_({options_.file_system, guard_, log_, notifier_, syncer_, writer_, recipes_, options_.telemetry,
                options_.make_recipe, options_.verify_chunk, options_.on_wrong_chunk, options_.had_again,
                options_.alarm}),
      lifecycle_({data_dir_, *table_, files_, guard_, log_, notifier_, recipes_, usage_, options_.telemetry,
                  [this](const BlobKey& key) { hasher_.Forget(key); },
                  [this](const BlobKey& key) { hasher_.Enqueue(key); },
                  [this](const BlobKey& key) { return IsMounted(key); }}),
      importer_({options_.file_system, content_, files_, lifecycle_, options_.make_recipe,
                 [this] { return WallClockMs(); }}),
      hasher_(
          [this](const BlobKey& id, const std::atomic<bool>& stop) {
            if (const EntryPtr entry = table_->Find(id)) checker_.Check(entry, stop);
          },
          options_.threads) {}

DiskStore::~DiskStore() {
  Stop();
}

void DiskStore::Stop() {
  stopping_ = true;
  hasher_.Stop();
  syncer_.Stop();
  notifier_.Stop();
}

void DiskStore::Flush() {
  syncer_.Flush();
  notifier_.Flush();
}

std::shared_ptr<Blob> DiskStore::Find(const BlobKey& key) const {
  return table_->FindBlob(key);
}

std::shared_ptr<Blob> DiskStore::FindBest(const Digest& digest) const {
  for (const EntryPtr& entry : table_->FindAll(digest)) {
    std::lock_guard lock(entry->mutex);
    if (entry->record.proven && !entry->blob->refused() && !entry->evicting) return entry->blob;
  }
  return Find(digest);
}

absl::StatusOr<Blob::Lease> DiskStore::Acquire(const BlobKey& key) const {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return NoSuchBlob(key);
  // An eviction begins under this lock, so it either sees the lease or is seen here.
  std::lock_guard lock(entry->mutex);
  if (entry->evicting) return NoSuchBlob(key);
  if (entry->blob->refused()) return RefusedBlob(entry->Name());
  return Blob::Lease(entry->blob);
}

absl::StatusOr<std::shared_ptr<Blob>> DiskStore::Open(const BlobSpec& spec) {
  return lifecycle_.Open(spec);
}

absl::StatusOr<std::shared_ptr<Blob>> DiskStore::OpenAs(const BlobKey& key, const BlobSpec& spec) {
  return lifecycle_.OpenAs(key, spec);
}

absl::Status DiskStore::ForgetOrigin(const BlobKey& key, const BlobOrigin& origin) {
  const EntryPtr entry = FindEntry(key);
  return entry ? lifecycle_.ForgetOrigin(*entry, origin) : absl::OkStatus();
}

std::vector<BlobKey> DiskStore::KeysOf(const Digest& digest) const {
  std::vector<BlobKey> keys;
  for (const EntryPtr& entry : table_->FindAll(digest)) keys.push_back(entry->id);
  return keys;
}

std::vector<Digest> DiskStore::StoredAs(const Digest& stored) const {
  std::vector<Digest> blobs;
  for (const EntryPtr& entry : table_->All()) {
    std::lock_guard lock(entry->mutex);
    for (const auto& [origin, form] : entry->record.stored) {
      if (form.digest == stored) blobs.push_back(entry->blob->digest());
    }
  }
  std::sort(blobs.begin(), blobs.end());
  blobs.erase(std::unique(blobs.begin(), blobs.end()), blobs.end());
  return blobs;
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
  const EntryPtr entry = FindEntry(blob.key());
  if (!entry) return EvictedBlob(blob.key().ToString());
  if (options_.make_room) options_.make_room(bytes.size(), RoomNeed::kCapacity);
  absl::Status committed = writer_.Commit(entry, blob, index, bytes, evidence);
  if (absl::IsResourceExhausted(committed) && options_.make_room) {
    options_.make_room(bytes.size(), RoomNeed::kDiskFull);
    committed = writer_.Commit(entry, blob, index, bytes, evidence);
  }
  if (!committed.ok()) options_.telemetry.write_failures.Add();
  return committed;
}

absl::Status DiskStore::Revoke(Blob& blob, ChunkIndex index) {
  if (const EntryPtr entry = FindEntry(blob.key())) return writer_.Revoke(entry, blob, index);
  blob.presence().Clear(index);
  return absl::OkStatus();
}

absl::StatusOr<std::string> DiskStore::GetRecipe(const BlobKey& blob) {
  return recipes_.Get(blob);
}

absl::Status DiskStore::PutRecipe(const BlobKey& blob, std::string_view recipe) {
  absl::Status put = recipes_.Put(blob, recipe);
  // What came before it can be proven now.
  const std::shared_ptr<Blob> known = Find(blob);
  if (put.ok() && known && known->unverified_count() > 0) hasher_.Enqueue(blob);
  return put;
}

std::string DiskStore::BlobPath(const BlobKey& key) const {
  return data_dir_.BlobPath(key);
}

std::string DiskStore::blobs_dir() const {
  return data_dir_.blobs_path();
}

absl::StatusOr<FileDescriptor> DiskStore::OpenForRead(const BlobKey& key) {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return NoSuchBlob(key);
  return guard_.OpenForRead(entry);
}

absl::StatusOr<std::shared_ptr<const BlobFile>> DiskStore::OpenFile(const BlobKey& key) {
  absl::StatusOr<FileDescriptor> fd = OpenForRead(key);
  if (!fd.ok()) return fd.status();
  Touch(key);
  return std::make_shared<OpenBlobFile>(*std::move(fd));
}

bool DiskStore::AllProven(const Blob& blob, ChunkSpan span) const {
  const EntryPtr entry = FindEntry(blob.key());
  if (!entry) return false;
  std::lock_guard lock(entry->mutex);
  if (!blob.presence().AllPresent(span) || entry->evicting || entry->blob.get() != &blob || blob.refused())
    return false;
  return blob.unverified_count() == 0 || entry->verified.AllIn(span);
}

int64_t DiskStore::WallClockMs() const {
  return options_.wall_clock_ms ? options_.wall_clock_ms() : SystemWallClockMs();
}

void DiskStore::NoteAccess(const BlobKey& key, const BlobOrigin& origin, OriginAccess access) {
  NoteAccess(key, origin, access, WallClockMs());
}

void DiskStore::NoteAccess(const BlobKey& key, const BlobOrigin& origin, OriginAccess access,
                           int64_t found_at_ms) {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return;
  std::lock_guard lock(entry->mutex);
  const auto found = std::find(entry->record.origins.begin(), entry->record.origins.end(), origin);
  if (found == entry->record.origins.end()) return;
  if (NotePublicAt(origin, access, found_at_ms, WallClockMs(), &entry->record)) entry->record_changed = true;
  OriginAccess& known = entry->record.access[static_cast<size_t>(found - entry->record.origins.begin())];
  const OriginAccess now = Stronger(known, access);
  if (now == known) return;
  known = now;
  entry->record_changed = true;
  entry->blob->SetFacts(entry->Facts());
}

void DiskStore::NoteHearsay(const BlobKey& key, const BlobOrigin& origin, Duration age) {
  const int64_t age_ms = std::chrono::duration_cast<std::chrono::milliseconds>(age).count();
  NoteAccess(key, origin, OriginAccess::kHearsay, std::max<int64_t>(WallClockMs() - age_ms, 1));
}

// By a clock that was set back it was found out in what is to come.
Duration DiskStore::PublicAge(const BlobKey& key, const BlobOrigin& origin) const {
  const int64_t at_ms = FoundPublicAt(key, origin);
  const int64_t now_ms = WallClockMs();
  if (at_ms <= 0 || at_ms > now_ms) return kLongAgo;
  return std::min<Duration>(std::chrono::milliseconds(now_ms - at_ms), kLongAgo);
}

int64_t DiskStore::FoundPublicAt(const BlobKey& key, const BlobOrigin& origin) const {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return 0;
  std::lock_guard lock(entry->mutex);
  const auto found = entry->record.public_at_ms.find(origin);
  return found == entry->record.public_at_ms.end() ? 0 : found->second;
}

OriginAccess DiskStore::AccessOf(const BlobKey& key, const BlobOrigin& origin) const {
  const EntryPtr entry = FindEntry(key);
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

absl::Status DiskStore::Evict(const BlobKey& key, EvictReason reason) {
  const EntryPtr entry = FindEntry(key);
  return entry ? lifecycle_.Evict(entry, reason) : NoSuchBlob(key);
}

absl::StatusOr<VerifyReport> DiskStore::Verify(const BlobKey& key, ChunkVerifier& verifier,
                                               const CancelCheck& cancelled,
                                               const OnVerifyProgress& on_progress) {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return NoSuchBlob(key);
  return checker_.Verify(entry, verifier, CancelCheck([&] { return stopping_.load() || cancelled; }),
                         on_progress);
}

uint32_t DiskStore::TakeLostChunks(const BlobKey& key) {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return 0;
  std::lock_guard lock(entry->mutex);
  return std::exchange(entry->lost_chunks, 0);
}

void DiskStore::CheckUnproven() {
  for (const EntryPtr& entry : table_->All()) {
    if (entry->blob->facts()->root && entry->blob->unverified_count() > 0) hasher_.Enqueue(entry->id);
  }
}

size_t DiskStore::CheckFiles() {
  const size_t lost = guard_.CheckAll(table_->All());
  DropEmptied();
  return lost;
}

void DiskStore::CheckFile(const BlobKey& key) {
  const EntryPtr entry = FindEntry(key);
  if (entry) guard_.CheckAll({&entry, 1});
}

absl::Status DiskStore::Pin(const BlobKey& key) {
  return SetPinned(key, true);
}

absl::Status DiskStore::Unpin(const BlobKey& key) {
  return SetPinned(key, false);
}

absl::Status DiskStore::SetPinned(const BlobKey& key, bool pinned) {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return NoSuchBlob(key);
  const absl::Status changed = log_.ChangeRecord(
      *entry, [&](BlobRecord& record) { record.pinned = pinned; }, Durability::kSynced);
  if (!changed.ok()) return changed;
  std::lock_guard lock(entry->mutex);
  return entry->evicting ? NoSuchBlob(key) : absl::OkStatus();
}

void DiskStore::Touch(const BlobKey& key) {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return;
  // Later accesses get larger numbers whatever the wall clock does, so the order among blobs stands.
  const int64_t now = WallClockMs();
  int64_t last = last_access_ms_;
  while (!last_access_ms_.compare_exchange_weak(last, std::max(now, last + 1))) {
  }
  std::lock_guard lock(entry->mutex);
  entry->record.last_access_ms = std::max(now, last + 1);
  entry->record_changed = true;
}

bool DiskStore::IsSettled(const BlobKey& key) const {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return false;
  std::lock_guard lock(entry->mutex);
  return entry->Settled();
}

absl::StatusOr<ChunkSet> DiskStore::ProvenChunks(const BlobKey& key) const {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return NoSuchBlob(key);
  std::lock_guard lock(entry->mutex);
  ChunkSet proven = entry->blob->presence().Snapshot();
  proven.IntersectWith(entry->verified);
  return proven;
}

absl::StatusOr<BlobInfo> DiskStore::Stat(const BlobKey& key) const {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return NoSuchBlob(key);
  return InfoOf(*entry);
}

std::vector<BlobInfo> DiskStore::List() const {
  std::vector<BlobInfo> list;
  for (const EntryPtr& entry : table_->All()) list.push_back(InfoOf(*entry));
  return list;
}

}  // namespace sluice::index
