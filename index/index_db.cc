#include "index/index_db.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <shared_mutex>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

// A file in the database's directory that says: damage was found while running, don't trust this again.
constexpr char kCondemnedName[] = "CONDEMNED";

constexpr size_t kBlockCacheBytes = 8 << 20;
constexpr size_t kWriteBufferBytes = 4 << 20;
constexpr uint64_t kWalBytesMax = 16 << 20;
constexpr int kOpenFilesMax = 64;
constexpr int kBackgroundJobs = 2;
constexpr std::chrono::seconds kReopenInterval{2};
constexpr uintmax_t kReopenBytes = 16 << 20;

// As strerror(3) puts them; RocksDB keeps the text of errno and drops its number.
constexpr const char* kMachineErrors[] = {"Permission denied", "Read-only file system", "Too many open files",
                                          "Cannot allocate memory", "While lock file"};

// What RocksDB has to say of itself is in the statuses it returns.
class SilentLogger final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

// Recovery from a full disk, RocksDB's own or by Resume, may go on with the log that failed, and then an
// assertion in Debian's build ends the process at the next write. Write opens the database anew instead.
class NoOwnRecovery final : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status, bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

rocksdb::Slice ToSlice(std::string_view text) {
  return {text.data(), text.size()};
}

std::string_view ToView(const rocksdb::Slice& slice) {
  return {slice.data(), slice.size()};
}

rocksdb::Options DatabaseOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  // A torn end of the log is a crash and was never acknowledged. Anything else that is missing from it could
  // be a claim that was taken back, so an older state must not be fallen back to.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.track_and_verify_wals_in_manifest = true;
  options.write_buffer_size = kWriteBufferBytes;
  options.max_total_wal_size = kWalBytesMax;
  options.max_open_files = kOpenFilesMax;
  options.max_file_opening_threads = 1;
  options.max_background_jobs = kBackgroundJobs;
  options.skip_stats_update_on_db_open = true;
  options.compression = rocksdb::kNoCompression;  // bitmaps are small, hashes don't compress
  options.info_log = std::make_shared<SilentLogger>();
  options.listeners.push_back(std::make_shared<NoOwnRecovery>());
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  table.cache_index_and_filter_blocks = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

absl::Status FromRocks(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("index: ", what, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsNoSpace() || status.subcode() == rocksdb::Status::kSpaceLimit) {
    return absl::ResourceExhaustedError(absl::StrCat(message, "; give the data directory more space"));
  }
  if (status.IsCorruption()) return absl::DataLossError(message);
  return absl::UnavailableError(message);
}

// Reading fails in many ways on a damaged directory. Only what speaks of the machine rather than of the files
// may keep the daemon from starting.
bool IsOfMachine(const rocksdb::Status& status) {
  if (status.IsNoSpace() || status.IsBusy() || status.IsTimedOut() || status.IsMemoryLimit()) return true;
  const std::string text = status.ToString();
  return std::any_of(std::begin(kMachineErrors), std::end(kMachineErrors),
                     [&](const char* error) { return text.find(error) != std::string::npos; });
}

absl::Status FromReading(const rocksdb::Status& status, const std::string& what) {
  const absl::Status translated = FromRocks(status, what);
  if (translated.ok() || IsOfMachine(status)) return translated;
  return absl::DataLossError(translated.message());
}

// RocksDB would make a new database over the remains of an old one.
absl::Status CheckRemains(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::exists(path, error)) return absl::OkStatus();
  if (!fs::is_directory(path, error)) return absl::DataLossError(absl::StrCat(path, " is not a directory"));
  if (fs::exists(absl::StrCat(path, "/", kCondemnedName), error)) {
    return absl::DataLossError(absl::StrCat(path, " was found damaged while it was in use"));
  }
  if (!fs::is_empty(path, error) && !fs::exists(path + "/CURRENT", error)) {
    return absl::DataLossError(absl::StrCat(path, " has no CURRENT"));
  }
  return absl::OkStatus();
}

bool IsEmpty(const PresenceSegment& segment) {
  return std::all_of(segment.present.begin(), segment.present.end(), [](uint64_t word) { return word == 0; });
}

}  // namespace

struct IndexBatch::Rep {
  rocksdb::WriteBatch batch;
};

IndexBatch::IndexBatch() : rep_(std::make_unique<Rep>()) {}
IndexBatch::~IndexBatch() = default;
IndexBatch::IndexBatch(IndexBatch&&) noexcept = default;
IndexBatch& IndexBatch::operator=(IndexBatch&&) noexcept = default;

bool IndexBatch::empty() const {
  return rep_->batch.Count() == 0;
}

void IndexBatch::PutBlob(const Digest& digest, const BlobRecord& record) {
  rep_->batch.Put(BlobKey(digest), EncodeBlobRecord(record));
}

void IndexBatch::PutSegment(const Digest& digest, SegmentIndex segment, const PresenceSegment& value) {
  if (IsEmpty(value)) {
    rep_->batch.Delete(SegmentKey(digest, segment));
  } else {
    rep_->batch.Put(SegmentKey(digest, segment), EncodeSegment(value));
  }
}

void IndexBatch::DeleteSegments(const Digest& digest, const ChunkGeometry& geometry) {
  for (uint32_t i = 0; i < SegmentIndex::CountIn(geometry); ++i) {
    rep_->batch.Delete(SegmentKey(digest, SegmentIndex(i)));
  }
}

void IndexBatch::DeleteBlob(const Digest& digest, const ChunkGeometry& geometry) {
  DeleteSegments(digest, geometry);
  rep_->batch.Delete(BlobKey(digest));
  rep_->batch.Delete(RecipeKey(digest));
}

struct IndexDb::Rep {
  std::string path;

  std::shared_mutex mutex;          // held exclusively while the database is replaced
  std::unique_ptr<rocksdb::DB> db;  // null if it could not be opened again
  std::chrono::steady_clock::time_point reopened_at{};

  absl::Status Write(rocksdb::WriteBatch* batch, Durability durability) {
    rocksdb::WriteOptions options;
    options.sync = durability == Durability::kSynced;
    rocksdb::Status status = TryWrite(options, batch);
    if (!status.ok() && !status.IsCorruption() && HasRoom() && Reopen(kReopenInterval)) {
      status = TryWrite(options, batch);
    }
    return Noted(status, "write");
  }

  rocksdb::Status TryWrite(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch) {
    std::shared_lock lock(mutex);
    return db ? db->Write(options, batch) : Closed();
  }

  // Whether the disk has what a new database object needs for its files.
  bool HasRoom() const {
    std::error_code error;
    return std::filesystem::space(path, error).available >= kReopenBytes && !error;
  }

  // The writer of the write-ahead log never forgets an error of its file, whatever becomes of the disk: only
  // a new database object writes again. Returns whether there is one; no more than one is tried in
  // `interval`.
  bool Reopen(std::chrono::steady_clock::duration interval) {
    std::unique_lock lock(mutex);
    const auto now = std::chrono::steady_clock::now();
    if (now - reopened_at < interval) return false;
    reopened_at = now;
    db.reset();
    rocksdb::DB* fresh = nullptr;
    if (!rocksdb::DB::Open(DatabaseOptions(), path, &fresh).ok()) return false;
    db.reset(fresh);
    return true;
  }

  static rocksdb::Status Closed() {
    return rocksdb::Status::IOError("the database could not be opened again after an error of the disk");
  }

  absl::Status Noted(const rocksdb::Status& status, const std::string& what) {
    if (status.IsCorruption())
      std::ofstream(absl::StrCat(path, "/", kCondemnedName)) << status.ToString() << '\n';
    return FromRocks(status, what);
  }
};

IndexDb::IndexDb(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
IndexDb::~IndexDb() = default;

absl::StatusOr<std::unique_ptr<IndexDb>> IndexDb::Open(const std::string& path) {
  if (absl::Status remains = CheckRemains(path); !remains.ok()) return remains;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(DatabaseOptions(), path, &db);
  if (!status.ok()) return FromReading(status, absl::StrCat("open ", path));
  auto rep = std::make_unique<Rep>();
  rep->path = path;
  rep->db.reset(db);
  return std::unique_ptr<IndexDb>(new IndexDb(std::move(rep)));
}

absl::Status IndexDb::Load(
    const std::function<absl::Status(const Digest&, BlobRecord)>& on_blob,
    const std::function<absl::Status(const Digest&, SegmentIndex, const PresenceSegment&)>& on_segment) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> row(rep_->db->NewIterator(options));
  for (row->Seek(ToSlice(BlobKeyPrefix())); row->Valid() && row->key().starts_with(ToSlice(BlobKeyPrefix()));
       row->Next()) {
    absl::StatusOr<Digest> digest = DecodeBlobKey(ToView(row->key()));
    absl::StatusOr<BlobRecord> record = DecodeBlobRecord(ToView(row->value()));
    if (!digest.ok()) return absl::DataLossError(digest.status().message());
    if (!record.ok()) return absl::DataLossError(record.status().message());
    if (absl::Status visited = on_blob(*digest, *std::move(record)); !visited.ok()) return visited;
  }
  if (!row->status().ok()) return FromReading(row->status(), "read blobs");
  for (row->Seek(ToSlice(SegmentKeyPrefix()));
       row->Valid() && row->key().starts_with(ToSlice(SegmentKeyPrefix())); row->Next()) {
    absl::StatusOr<SegmentName> name = DecodeSegmentKey(ToView(row->key()));
    absl::StatusOr<PresenceSegment> segment = DecodeSegment(ToView(row->value()));
    if (!name.ok()) return absl::DataLossError(name.status().message());
    if (!segment.ok()) return absl::DataLossError(segment.status().message());
    if (absl::Status visited = on_segment(name->digest, name->segment, *segment); !visited.ok())
      return visited;
  }
  return FromReading(row->status(), "read segments");
}

absl::Status IndexDb::Write(IndexBatch batch, Durability durability) {
  return rep_->Write(&batch.rep_->batch, durability);
}

void IndexDb::Reopen() {
  rep_->Reopen(std::chrono::steady_clock::duration::zero());
}

absl::StatusOr<std::string> IndexDb::GetRecipe(const Digest& digest) {
  const std::string what = absl::StrCat("recipe of blob ", digest.ToString());
  std::string value;
  rocksdb::Status got = Rep::Closed();
  {
    std::shared_lock lock(rep_->mutex);
    if (rep_->db) got = rep_->db->Get(rocksdb::ReadOptions(), RecipeKey(digest), &value);
  }
  if (absl::Status status = rep_->Noted(got, what); !status.ok()) {
    return absl::IsNotFound(status) ? status : absl::UnavailableError(status.message());
  }
  absl::StatusOr<std::string> recipe = DecodeRecipe(value);
  if (!recipe.ok()) return absl::UnavailableError(absl::StrCat(what, ": ", recipe.status().message()));
  return recipe;
}

absl::Status IndexDb::PutRecipe(const Digest& digest, std::string_view recipe) {
  if (recipe.size() > kRecipeBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the recipe of blob ", digest.ToString(), " has ",
                                                   recipe.size(), " bytes, more than ", kRecipeBytesMax));
  }
  rocksdb::WriteBatch batch;
  batch.Put(RecipeKey(digest), EncodeRecipe(recipe));
  return rep_->Write(&batch, Durability::kSynced);
}

}  // namespace sluice::index
