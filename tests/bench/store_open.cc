// What opening a store of many chunks costs beside RocksDB alone, each in a process of its own.
//
// usage: store_open make  DATA_DIR BLOBS CHUNKS_PER_BLOB   makes the store
//        store_open store DATA_DIR BLOBS CHUNKS_PER_BLOB   opens it; prints milliseconds and resident bytes
//        store_open bare  DATA_DIR BLOBS CHUNKS_PER_BLOB   opens its RocksDB and reads the same rows;
//        milliseconds
//
// Each blob has CHUNKS_PER_BLOB chunks present and some holes between them, so that nothing is hashed in the
// background when the store opens. The chunks of every other blob are verified.

#include <rocksdb/db.h>
#include <rocksdb/iterator.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "index/disk_store.h"
#include "node/telemetry.h"
#include "p2p/recipe/sha256.h"
#include "weightless_file_system.h"

namespace sluice {
namespace {

constexpr uint32_t kHolesPerBlob = 16;
// A recipe names each chunk by a hash. Its rows lie beside those that the store reads when it opens, and are
// not read then.
constexpr std::string_view kRecipeKeyPrefix = "r";

struct StoreShape {
  uint32_t blobs = 0;
  uint32_t chunks_per_blob = 0;

  uint64_t chunks() const { return uint64_t{blobs} * chunks_per_blob; }
};

class Stopwatch {
 public:
  double milliseconds() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started_).count();
  }

 private:
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

uint64_t ResidentBytes() {
  uint64_t all_pages = 0;
  uint64_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> all_pages >> resident_pages;
  return resident_pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

absl::Status AddBlob(index::DiskStore& store, uint32_t number, uint32_t chunks) {
  const uint32_t every = chunks / kHolesPerBlob;
  const ChunkGeometry geometry(uint64_t{chunks + kHolesPerBlob} * kChunkSizeDefault, kChunkSizeDefault);
  BlobSpec spec;
  spec.digest = p2p::Sha256::Of(absl::StrCat("blob ", number));
  spec.size = geometry.size();
  spec.chunk_size = geometry.chunk_size();
  spec.root = p2p::Sha256::Of(absl::StrCat("root ", number));
  spec.origins = {{"registry.example:5000", "team/application"}};
  auto blob = store.Open(spec);
  if (!blob.ok()) return blob.status();

  std::string recipe;
  while (recipe.size() < geometry.chunk_count() * Digest::kBytes) {
    const Digest hash = p2p::Sha256::Of(absl::StrCat("blob ", number, " byte ", recipe.size()));
    recipe.append(reinterpret_cast<const char*>(hash.bytes().data()), Digest::kBytes);
  }
  if (auto put = store.PutRecipe(spec.digest, recipe); !put.ok()) return put;

  const std::vector<std::byte> bytes(spec.chunk_size);
  const Evidence evidence = number % 2 == 0 ? Evidence::kVerified : Evidence::kUnverified;
  for (ChunkIndex index; index < geometry.All().end(); index = index.next()) {
    const bool hole = index.value() % (every + 1) == every / 2 && index.value() / (every + 1) < kHolesPerBlob;
    if (hole) continue;
    if (auto done = store.Commit(**blob, index, bytes, evidence); !done.ok()) return done;
  }
  return absl::OkStatus();
}

absl::Status MakeStore(const std::string& data_dir, const StoreShape& shape) {
  Telemetry telemetry;
  bench::WeightlessFileSystem file_system;
  auto store = index::DiskStore::OpenStore({.data_dir = data_dir,
                                            .telemetry = telemetry,
                                            .file_system = file_system,
                                            .sync_bytes_max = UINT64_MAX});
  if (!store.ok()) return store.status();
  for (uint32_t i = 0; i < shape.blobs; ++i) {
    if (auto added = AddBlob(**store, i, shape.chunks_per_blob); !added.ok()) return added;
  }
  (*store)->Flush();
  (*store)->Stop();
  return absl::OkStatus();
}

absl::Status OpenStore(const std::string& data_dir, const StoreShape& shape) {
  Telemetry telemetry;
  const uint64_t resident_before = ResidentBytes();
  const Stopwatch stopwatch;
  auto store = index::DiskStore::OpenStore({.data_dir = data_dir, .telemetry = telemetry});
  if (!store.ok()) return store.status();
  const double milliseconds = stopwatch.milliseconds();
  const uint64_t resident = ResidentBytes() - resident_before;
  const index::OpenReport& report = (*store)->open_report();
  if (report.blobs != shape.blobs || report.chunks_present != shape.chunks()) {
    return absl::DataLossError(absl::StrCat("the store holds ", report.blobs, " blobs and ",
                                            report.chunks_present, " chunks, not ", shape.blobs, " and ",
                                            shape.chunks()));
  }
  std::cout << milliseconds << ' ' << resident << std::endl;
  return absl::OkStatus();
}

class SilentLogger final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

// As the store sets them, so far as they matter for opening and reading.
rocksdb::Options BareOptions() {
  rocksdb::Options options;
  options.write_buffer_size = 4 << 20;
  options.max_open_files = 64;
  options.max_file_opening_threads = 1;
  options.skip_stats_update_on_db_open = true;
  options.info_log = std::make_shared<SilentLogger>();
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  rocksdb::BlockBasedTableOptions table;
  table.cache_index_and_filter_blocks = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// Every row but the recipes; returns how many.
absl::StatusOr<uint64_t> ReadRows(rocksdb::DB& db) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> row(db.NewIterator(options));
  const rocksdb::Slice recipes(kRecipeKeyPrefix.data(), kRecipeKeyPrefix.size());
  const std::string after_recipes(1, static_cast<char>(kRecipeKeyPrefix.front() + 1));
  uint64_t rows = 0;
  uint64_t bytes = 0;
  for (row->SeekToFirst(); row->Valid();) {
    if (row->key().starts_with(recipes)) {
      row->Seek(after_recipes);
      continue;
    }
    ++rows;
    bytes += row->value().size();
    row->Next();
  }
  if (!row->status().ok()) return absl::UnavailableError(row->status().ToString());
  if (bytes == 0) return absl::DataLossError("the rows are empty");
  return rows;
}

absl::Status OpenBare(const std::string& data_dir, const StoreShape& shape) {
  const Stopwatch stopwatch;
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(BareOptions(), data_dir + "/index", &opened);
  if (!status.ok()) return absl::UnavailableError(status.ToString());
  const std::unique_ptr<rocksdb::DB> db(opened);
  const absl::StatusOr<uint64_t> rows = ReadRows(*db);
  const double milliseconds = stopwatch.milliseconds();
  if (!rows.ok()) return rows.status();
  // A record for each blob, and at least one row that says what is present of it.
  if (*rows < 2 * uint64_t{shape.blobs}) {
    return absl::DataLossError(absl::StrCat("the index has ", *rows, " rows for ", shape.blobs, " blobs"));
  }
  std::cout << milliseconds << std::endl;
  return absl::OkStatus();
}

absl::Status Run(const std::string& what, const std::string& data_dir, const StoreShape& shape) {
  if (what == "make") return MakeStore(data_dir, shape);
  if (what == "store") return OpenStore(data_dir, shape);
  if (what == "bare") return OpenBare(data_dir, shape);
  return absl::InvalidArgumentError(absl::StrCat("what is '", what, "'?"));
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: store_open make|store|bare DATA_DIR BLOBS CHUNKS_PER_BLOB\n";
    return 2;
  }
  const sluice::StoreShape shape{static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10)),
                                 static_cast<uint32_t>(std::strtoul(argv[4], nullptr, 10))};
  const absl::Status done = sluice::Run(argv[1], argv[2], shape);
  if (!done.ok()) std::cerr << "store_open: " << done << "\n";
  return done.ok() ? 0 : 1;
}
