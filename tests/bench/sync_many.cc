// One batch of the store over many dirty blobs, beside one fdatasync each by a bare program over files like
// them.
//
// usage: sync_many DATA_DIR BARE_DIR BLOBS THREADS PAIRS
//
// DATA_DIR and BARE_DIR lie on one file system. Prints, for each pair, the milliseconds of the store's batch
// and those of the bare program; which of them goes first changes with each pair. Both files of a pair got
// the same chunk, in the same way, right before.

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "index/disk_store.h"
#include "index/file_descriptor.h"
#include "node/telemetry.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

// Each pair dirties one chunk of each file, and these lie apart: nothing is reserved for a sequence.
constexpr uint32_t kChunksApart = 32;

class Stopwatch {
 public:
  double milliseconds() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started_).count();
  }

 private:
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

struct Shape {
  uint32_t blobs = 0;
  uint32_t threads = 0;
  uint32_t pairs = 0;

  // Chunk 0 is there before the first pair.
  uint64_t blob_bytes() const { return uint64_t{pairs + 1} * kChunksApart * kChunkSizeDefault; }
};

ChunkIndex ChunkOfPair(uint32_t pair) {
  return ChunkIndex((pair + 1) * kChunksApart);
}

absl::Status DiskStatus(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// The store's side: its blobs are dirty until the batch that Sync asks for, since no other is due.
class StoreSide {
 public:
  absl::Status Open(const std::string& data_dir, const Shape& shape) {
    auto store = index::DiskStore::OpenStore({.data_dir = data_dir,
                                              .telemetry = telemetry_,
                                              .sync_interval = std::chrono::hours(24),
                                              .sync_bytes_max = std::numeric_limits<uint64_t>::max()});
    if (!store.ok()) return store.status();
    store_ = *std::move(store);
    for (uint32_t i = 0; i < shape.blobs; ++i) {
      BlobSpec spec;
      spec.digest = p2p::Sha256::Of(absl::StrCat("blob ", i));
      spec.size = shape.blob_bytes();
      spec.chunk_size = kChunkSizeDefault;
      auto blob = store_->Open(spec);
      if (!blob.ok()) return blob.status();
      blobs_.push_back(*std::move(blob));
    }
    if (absl::Status dirtied = Dirty(ChunkIndex(0)); !dirtied.ok()) return dirtied;
    return Sync().status();
  }

  absl::Status Dirty(ChunkIndex index) {
    for (const auto& blob : blobs_) {
      if (auto done = store_->Commit(*blob, index, bytes_, Evidence::kVerified); !done.ok()) return done;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> Sync() {
    const Stopwatch stopwatch;
    store_->Flush();
    const double milliseconds = stopwatch.milliseconds();
    if (telemetry_.sync_failures.value() != 0) return absl::UnavailableError("a sync of the store failed");
    return milliseconds;
  }

 private:
  const std::vector<std::byte> bytes_ = std::vector<std::byte>(kChunkSizeDefault, std::byte{'x'});
  Telemetry telemetry_;
  std::unique_ptr<index::DiskStore> store_;
  std::vector<std::shared_ptr<Blob>> blobs_;
};

class BareSide {
 public:
  absl::Status Open(const std::string& directory, const Shape& shape) {
    threads_ = shape.threads;
    for (uint32_t i = 0; i < shape.blobs; ++i) {
      const std::string path = absl::StrCat(directory, "/", i);
      index::FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640));
      if (!fd.valid()) return DiskStatus("open");
      if (::ftruncate(fd.get(), static_cast<off_t>(shape.blob_bytes())) != 0) return DiskStatus("ftruncate");
      files_.push_back(std::move(fd));
    }
    if (absl::Status dirtied = Dirty(ChunkIndex(0)); !dirtied.ok()) return dirtied;
    return Sync().status();
  }

  absl::Status Dirty(ChunkIndex index) {
    const auto offset = static_cast<off_t>(uint64_t{index.value()} * kChunkSizeDefault);
    for (const index::FileDescriptor& file : files_) {
      if (::fallocate(file.get(), FALLOC_FL_KEEP_SIZE, offset, kChunkSizeDefault) != 0 &&
          errno != EOPNOTSUPP) {
        return DiskStatus("fallocate");
      }
      if (::pwrite(file.get(), bytes_.data(), bytes_.size(), offset) != static_cast<ssize_t>(bytes_.size())) {
        return DiskStatus("pwrite");
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> Sync() {
    const Stopwatch stopwatch;
    std::atomic<size_t> next{0};
    std::atomic<int> failed{0};
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < threads_; ++i) {
      threads.emplace_back([&] {
        for (size_t file = next++; file < files_.size(); file = next++) {
          if (::fdatasync(files_[file].get()) != 0) ++failed;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const double milliseconds = stopwatch.milliseconds();
    if (failed != 0) return absl::UnavailableError("fdatasync failed");
    return milliseconds;
  }

 private:
  const std::vector<std::byte> bytes_ = std::vector<std::byte>(kChunkSizeDefault, std::byte{'x'});
  uint32_t threads_ = 0;
  std::vector<index::FileDescriptor> files_;
};

// Neither side's bytes are on disk, and all else is, when the clock starts.
template <typename Side>
absl::StatusOr<double> MeasureOne(Side& side, ChunkIndex index) {
  ::sync();
  if (absl::Status dirtied = side.Dirty(index); !dirtied.ok()) return dirtied;
  return side.Sync();
}

absl::Status Measure(const std::string& data_dir, const std::string& bare_dir, const Shape& shape) {
  StoreSide store;
  BareSide bare;
  if (absl::Status opened = store.Open(data_dir, shape); !opened.ok()) return opened;
  if (absl::Status opened = bare.Open(bare_dir, shape); !opened.ok()) return opened;
  for (uint32_t pair = 0; pair < shape.pairs; ++pair) {
    absl::StatusOr<double> ours;
    absl::StatusOr<double> other;
    if (pair % 2 == 0) ours = MeasureOne(store, ChunkOfPair(pair));
    other = MeasureOne(bare, ChunkOfPair(pair));
    if (pair % 2 != 0) ours = MeasureOne(store, ChunkOfPair(pair));
    if (!ours.ok()) return ours.status();
    if (!other.ok()) return other.status();
    std::cout << *ours << ' ' << *other << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: sync_many DATA_DIR BARE_DIR BLOBS THREADS PAIRS\n";
    return 2;
  }
  const sluice::Shape shape{.blobs = static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10)),
                            .threads = static_cast<uint32_t>(std::strtoul(argv[4], nullptr, 10)),
                            .pairs = static_cast<uint32_t>(std::strtoul(argv[5], nullptr, 10))};
  const absl::Status done = sluice::Measure(argv[1], argv[2], shape);
  if (!done.ok()) std::cerr << "sync_many: " << done << "\n";
  return done.ok() ? 0 : 1;
}
