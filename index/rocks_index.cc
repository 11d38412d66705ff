#include "index/rocks_index.h"

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

std::string_view ToView(const rocksdb::Slice& slice) {
  return {slice.data(), slice.size()};
}

rocksdb::Options DatabaseOptions(rocksdb::Env* env) {
  rocksdb::Options options;
  options.env = env;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  // A torn end of the log is a crash and was never acknowledged. Anything else that is missing from it could
  // be a claim that was taken back, so an older state must not be fallen back to.
  // An end that has its length and zeros for bytes, as a file system may leave it, can't be told from rot:
  // the index is given up.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.track_and_verify_wals_in_manifest = true;
  // What the log held is in a table, synced, before the index can be read: the store goes by what it reads.
  options.avoid_flush_during_recovery = false;
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

// RocksDB syncs what lies in its directory, but not the directory's own name.
absl::Status MakeDirectory(rocksdb::Env& env, const std::string& path) {
  if (env.FileExists(path + "/CURRENT").ok()) return absl::OkStatus();
  rocksdb::Status made = env.CreateDirIfMissing(path);
  std::unique_ptr<rocksdb::Directory> parent;
  if (made.ok()) made = env.NewDirectory(std::filesystem::path(path).parent_path(), &parent);
  if (made.ok()) made = parent->Fsync();
  return FromRocks(made, absl::StrCat("make directory ", path));
}

rocksdb::Status Closed() {
  return rocksdb::Status::IOError("the database could not be opened again after an error of the disk");
}

class RocksIndex final : public IndexDb {
 public:
  RocksIndex(std::string path, rocksdb::Options options, std::unique_ptr<rocksdb::DB> db)
      : path_(std::move(path)), options_(std::move(options)), db_(std::move(db)) {}

  absl::Status Scan(const Visitor& visit) override {
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    std::shared_lock lock(mutex_);
    if (!db_) return FromRocks(Closed(), "read");
    const std::unique_ptr<rocksdb::Iterator> row(db_->NewIterator(options));
    for (row->SeekToFirst(); row->Valid(); row->Next()) {
      if (absl::Status visited = visit(ToView(row->key()), ToView(row->value())); !visited.ok())
        return visited;
    }
    return FromReading(row->status(), "read");
  }

  absl::Status Write(const IndexBatch& batch, Durability durability) override {
    rocksdb::WriteBatch changes;
    for (const IndexBatch::Change& change : batch.changes()) {
      switch (change.kind) {
        case IndexBatch::Change::Kind::kPut:
          changes.Put(change.key, change.value);
          break;
        case IndexBatch::Change::Kind::kDelete:
          changes.Delete(change.key);
          break;
        case IndexBatch::Change::Kind::kDeleteRange:
          changes.DeleteRange(change.key, change.value);
          break;
      }
    }
    rocksdb::WriteOptions options;
    options.sync = durability == Durability::kSynced;
    rocksdb::Status status = TryWrite(options, &changes);
    if (!status.ok() && !status.IsCorruption() && HasRoom() && ReopenAfter(kReopenInterval)) {
      status = TryWrite(options, &changes);
    }
    if (status.IsCorruption()) {
      std::ofstream(absl::StrCat(path_, "/", kCondemnedName)) << status.ToString() << '\n';
    }
    return FromRocks(status, "write");
  }

  void Reopen() override { ReopenAfter(std::chrono::nanoseconds::zero()); }

 private:
  rocksdb::Status TryWrite(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch) {
    std::shared_lock lock(mutex_);
    return db_ ? db_->Write(options, batch) : Closed();
  }

  // Whether the disk has what a new database object needs for its files.
  bool HasRoom() const {
    std::error_code error;
    return std::filesystem::space(path_, error).available >= kReopenBytes && !error;
  }

  // The writer of the write-ahead log never forgets an error of its file, whatever becomes of the disk: only
  // a new database object writes again. Returns whether there is one; no more than one is tried in
  // `interval`.
  bool ReopenAfter(std::chrono::nanoseconds interval) {
    std::unique_lock lock(mutex_);
    const std::chrono::nanoseconds now(options_.env->NowNanos());
    if (now - reopened_at_ < interval) return false;
    reopened_at_ = now;
    db_.reset();
    rocksdb::DB* fresh = nullptr;
    if (!rocksdb::DB::Open(options_, path_, &fresh).ok()) return false;
    db_.reset(fresh);
    return true;
  }

  const std::string path_;
  const rocksdb::Options options_;

  std::shared_mutex mutex_;  // held exclusively while the database is replaced
  // Guarded by mutex_.
  std::unique_ptr<rocksdb::DB> db_;         // null if it could not be opened again
  std::chrono::nanoseconds reopened_at_{};  // by the environment's clock
};

absl::StatusOr<std::unique_ptr<IndexDb>> OpenWith(const rocksdb::Options& options, const std::string& path) {
  if (absl::Status remains = CheckRemains(path); !remains.ok()) return remains;
  if (absl::Status made = MakeDirectory(*options.env, path); !made.ok()) return made;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(options, path, &db);
  if (!status.ok()) return FromReading(status, absl::StrCat("open ", path));
  return std::make_unique<RocksIndex>(path, options, std::unique_ptr<rocksdb::DB>(db));
}

}  // namespace

absl::StatusOr<std::unique_ptr<IndexDb>> OpenRocksIndex(const std::string& path) {
  return OpenWith(DatabaseOptions(rocksdb::Env::Default()), path);
}

absl::StatusOr<std::unique_ptr<IndexDb>> OpenRocksIndexOn(rocksdb::Env& env, const std::string& path) {
  rocksdb::Options options = DatabaseOptions(&env);
  options.disable_auto_compactions = true;
  return OpenWith(options, path);
}

}  // namespace sluice::index
