// What a blob's file takes on disk when only some of its chunks are present.
//
// usage: store_space DATA_DIR BLOB_BYTES CHUNKS STRIDE_BYTES SEED
//
// Commits the first CHUNKS chunks of each STRIDE_BYTES of a blob, the strides in an order that SEED shuffles
// (0: in the order of the file), then syncs. Prints the bytes that the file has allocated over those that are
// present, the most that this ever was from the first commit on, and the extents of the file.

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
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

constexpr uint64_t kStatBlockBytes = 512;  // unit of st_blocks, stat(2)

struct Pattern {
  uint64_t blob_bytes = 0;
  uint32_t chunks = 0;
  uint64_t stride_bytes = 0;
  uint32_t seed = 0;
};

absl::StatusOr<uint64_t> AllocatedBytes(const std::string& path) {
  struct stat stat {};
  if (::stat(path.c_str(), &stat) != 0) return absl::UnavailableError(std::strerror(errno));
  return static_cast<uint64_t>(stat.st_blocks) * kStatBlockBytes;
}

// Source: Documentation/filesystems/fiemap.rst; with no room for extents they are only counted.
absl::StatusOr<uint32_t> ExtentsOf(const std::string& path) {
  const index::FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return absl::UnavailableError(std::strerror(errno));
  struct fiemap map {};
  map.fm_length = FIEMAP_MAX_OFFSET;
  map.fm_flags = FIEMAP_FLAG_SYNC;
  if (::ioctl(fd.get(), FS_IOC_FIEMAP, &map) != 0) {
    return absl::UnavailableError(absl::StrCat("FIEMAP: ", std::strerror(errno)));
  }
  return map.fm_mapped_extents;
}

std::vector<uint64_t> StrideOrder(const Pattern& pattern) {
  std::vector<uint64_t> order(pattern.blob_bytes / pattern.stride_bytes);
  std::iota(order.begin(), order.end(), 0);
  if (pattern.seed != 0) std::shuffle(order.begin(), order.end(), std::mt19937(pattern.seed));
  return order;
}

absl::Status Measure(const std::string& data_dir, const Pattern& pattern) {
  Telemetry telemetry;
  auto store = index::DiskStore::OpenStore({.data_dir = data_dir, .telemetry = telemetry});
  if (!store.ok()) return store.status();
  BlobSpec spec;
  spec.digest = p2p::Sha256::Of("a blob with holes");
  spec.size = pattern.blob_bytes;
  spec.chunk_size = ChunkGeometry::ChunkSizeFor(pattern.blob_bytes);
  auto blob = (*store)->Open(spec);
  if (!blob.ok()) return blob.status();
  const std::string path = (*store)->BlobPath(spec.digest);

  const std::vector<std::byte> bytes(spec.chunk_size, std::byte{'x'});
  uint64_t present = 0;
  double peak = 0;
  for (const uint64_t stride : StrideOrder(pattern)) {
    ChunkIndex index = (*blob)->geometry().ChunkAt(stride * pattern.stride_bytes);
    for (uint32_t i = 0; i < pattern.chunks; ++i, index = index.next()) {
      if (auto done = (*store)->Commit(**blob, index, bytes, Evidence::kVerified); !done.ok()) return done;
      present += bytes.size();
      const absl::StatusOr<uint64_t> allocated = AllocatedBytes(path);
      if (!allocated.ok()) return allocated.status();
      peak = std::max(peak, static_cast<double>(*allocated) / static_cast<double>(present));
    }
  }
  (*store)->Flush();
  if ((*blob)->present_bytes() != present) return absl::DataLossError("chunks were taken back");
  const absl::StatusOr<uint64_t> allocated = AllocatedBytes(path);
  if (!allocated.ok()) return allocated.status();
  const absl::StatusOr<uint32_t> extents = ExtentsOf(path);
  if (!extents.ok()) return extents.status();
  std::cout << static_cast<double>(*allocated) / static_cast<double>(present) << ' ' << peak << ' '
            << *extents << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: store_space DATA_DIR BLOB_BYTES CHUNKS STRIDE_BYTES SEED\n";
    return 2;
  }
  const sluice::Pattern pattern{.blob_bytes = std::strtoull(argv[2], nullptr, 10),
                                .chunks = static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10)),
                                .stride_bytes = std::strtoull(argv[4], nullptr, 10),
                                .seed = static_cast<uint32_t>(std::strtoul(argv[5], nullptr, 10))};
  const absl::Status done = sluice::Measure(argv[1], pattern);
  if (!done.ok()) std::cerr << "store_space: " << done << "\n";
  return done.ok() ? 0 : 1;
}
