// What is done once: opening the index, and holding it against the files that are there.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/disk_error.h"
#include "index/disk_store.h"

namespace sluice::index {
namespace {

constexpr Duration kIdleInterval = std::chrono::seconds(60);
constexpr uint64_t kStatBlockBytes = 512;  // unit of st_blocks, stat(2)

}  // namespace

absl::StatusOr<std::unique_ptr<DiskStore>> DiskStore::OpenStore(Options options) {
  absl::StatusOr<DataDir> data_dir = DataDir::OpenAndLock(options.data_dir);
  if (!data_dir.ok()) return data_dir.status();
  std::unique_ptr<DiskStore> store(new DiskStore(std::move(options), *std::move(data_dir)));
  if (absl::Status opened = store->OpenIndex(); !opened.ok()) return opened;
  if (absl::Status reconciled = store->ReconcileFiles(); !reconciled.ok()) return reconciled;
  if (absl::Status removed = store->RemoveOrphans(); !removed.ok()) return removed;
  store->data_dir_.KeepReserve();
  store->StartThreads();
  return store;
}

absl::Status DiskStore::OpenIndex() {
  std::error_code error;
  const bool had_index = std::filesystem::exists(data_dir_.index_path(), error);
  absl::StatusOr<std::vector<Digest>> files = data_dir_.ListBlobFiles();
  if (!files.ok()) return files.status();
  absl::Status loaded = LoadIndex();
  if (absl::IsResourceExhausted(loaded) && data_dir_.ReleaseReserve()) {
    entries_.clear();
    loaded = LoadIndex();
  }
  if (absl::IsDataLoss(loaded)) return RebuildIndex(std::string(loaded.message()));
  if (loaded.ok() && !had_index && !files->empty()) {
    report_.rebuilt = true;
    report_.reason = absl::StrCat(data_dir_.index_path(), " is missing");
    Alarm(absl::StrCat("the index was lost (", report_.reason, "); the cache begins anew"));
  }
  return loaded;
}

absl::Status DiskStore::LoadIndex() {
  absl::StatusOr<std::unique_ptr<IndexDb>> db = IndexDb::Open(data_dir_.index_path());
  if (!db.ok()) return db.status();
  db_ = *std::move(db);
  return db_->Load(
      [this](const Digest& digest, BlobRecord record) { return AddLoadedBlob(digest, std::move(record)); },
      [this](const Digest& digest, SegmentIndex segment, const PresenceSegment& value) {
        return AddLoadedSegment(digest, segment, value);
      });
}

absl::Status DiskStore::RebuildIndex(const std::string& reason) {
  entries_.clear();
  db_.reset();
  report_.rebuilt = true;
  report_.reason = reason;
  Alarm(absl::StrCat("the index is damaged and set aside (", reason, "); the cache begins anew"));
  if (absl::Status moved = data_dir_.SetIndexAside(); !moved.ok()) return moved;
  const absl::Status loaded = LoadIndex();
  return absl::IsDataLoss(loaded) ? absl::UnavailableError(loaded.message()) : loaded;
}

absl::Status DiskStore::AddLoadedBlob(const Digest& digest, BlobRecord record) {
  auto blob =
      std::make_shared<Blob>(BlobSpec{digest, record.size, record.chunk_size, record.root, record.origins});
  if (record.state == BlobState::kRefused) blob->Refuse();
  last_access_ms_ = std::max(last_access_ms_.load(), record.last_access_ms);
  entries_[digest] = std::make_shared<BlobEntry>(std::move(blob), std::move(record));
  return absl::OkStatus();
}

absl::Status DiskStore::AddLoadedSegment(const Digest& digest, SegmentIndex segment,
                                         const PresenceSegment& value) {
  const auto found = entries_.find(digest);
  if (found == entries_.end()) {
    return absl::DataLossError(absl::StrCat("index: chunks of an unknown blob ", digest.ToString()));
  }
  BlobEntry& entry = *found->second;
  if (value.chunk_count != segment.ChunksIn(entry.blob->geometry()).count) {
    return absl::DataLossError(absl::StrCat("index: chunks past the end of blob ", digest.ToString()));
  }
  std::lock_guard lock(entry.mutex);
  entry.Load(segment, value);
  // Chunks that came before access was noted may have come by credentials.
  std::vector<OriginAccess>& access = entry.record.access;
  const auto unknown = [](OriginAccess known) { return known == OriginAccess::kUnknown; };
  if (std::all_of(access.begin(), access.end(), unknown))
    std::fill(access.begin(), access.end(), OriginAccess::kCredentials);
  return absl::OkStatus();
}

bool DiskStore::FileIsWhole(BlobEntry& entry) {
  struct stat stat {};
  const std::string name = entry.blob->digest().Hex();
  if (::fstatat(data_dir_.blobs_fd(), name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) != 0) return false;
  SetDiskBytes(entry, static_cast<uint64_t>(stat.st_blocks) * kStatBlockBytes);
  return S_ISREG(stat.st_mode) && static_cast<uint64_t>(stat.st_size) >= entry.record.size;
}

absl::Status DiskStore::ReconcileFiles() {
  std::vector<Entry> lost;
  for (const auto& [digest, entry] : entries_) {
    if (!FileIsWhole(*entry)) lost.push_back(entry);
  }
  report_.files_lost = lost.size();
  if (absl::Status repaired = RepairFiles(lost); !repaired.ok()) return repaired;
  report_.blobs = entries_.size();
  for (const auto& [digest, entry] : entries_)
    report_.chunks_present += entry->blob->presence().present_count();
  return absl::OkStatus();
}

absl::Status DiskStore::RepairFiles(const std::vector<Entry>& lost) {
  if (lost.empty()) return absl::OkStatus();
  IndexBatch batch;
  for (const Entry& entry : lost) {
    std::lock_guard lock(entry->mutex);
    const Digest& digest = entry->blob->digest();
    Alarm(absl::StrCat("the file of blob ", digest.ToString(),
                       " is missing or too short; its chunks are absent"));
    entry->TakeBackAll();
    entry->claimed.Clear();
    // A mount lives on: it reads a file that is gone and can't be filled, or one whose pages it may know as
    // zeros.
    if (options_.is_mounted && options_.is_mounted(digest)) {
      entry->blob->Refuse();
      entry->record.state = BlobState::kRefused;
      options_.telemetry.blobs_refused.Add();
    }
    batch.DeleteSegments(digest, entry->blob->geometry());
    entry->StageRecord(&batch);
  }
  // The claims go before the files come back: over holes of the right size they would be lies.
  if (absl::Status written = db_->Write(std::move(batch), IndexDb::Durability::kSynced); !written.ok()) {
    return written;
  }
  for (const Entry& entry : lost) {
    if (entry->blob->refused()) continue;
    if (absl::Status made = MakeFile(entry->blob->digest(), entry->record.size); !made.ok()) return made;
  }
  return absl::OkStatus();
}

absl::Status DiskStore::RemoveOrphans() {
  absl::StatusOr<std::vector<Digest>> files = data_dir_.ListBlobFiles();
  if (!files.ok()) return files.status();
  for (const Digest& digest : *files) {
    if (entries_.contains(digest) || (options_.is_mounted && options_.is_mounted(digest))) continue;
    if (options_.file_system.Unlink(data_dir_.blobs_fd(), digest.Hex()) != 0) {
      return WriteError(errno, absl::StrCat("remove ", BlobPath(digest), ", which the index does not know"));
    }
    ++report_.orphans_removed;
  }
  return absl::OkStatus();
}

void DiskStore::StartThreads() {
  records_written_at_ = std::chrono::steady_clock::now();
  hasher_ = std::make_unique<BlobHasher>(
      [this](const Digest& digest, const std::atomic<bool>& stop) { CheckWhole(digest, stop); });
  sync_ = std::make_unique<SyncLoop>(
      SyncLoop::Limits{options_.sync_interval, kIdleInterval, options_.sync_bytes_max},
      [this] { RunBatch(); });
  for (const auto& [digest, entry] : entries_) {
    std::lock_guard lock(entry->mutex);
    if (entry->Durable() && !entry->Settled()) hasher_->Enqueue(digest);
  }
}

}  // namespace sluice::index
