// Commits chunks of known content until it is killed, and says on stdout what has been made durable:
//   "<round of chunks> durable" after a flush. Chunk i of blob b holds CrashContent(b, i).
// Usage: index_crash_writer DATA_DIR SEED
#include <cstdio>
#include <cstdlib>
#include <random>

#include "crash_content.h"
#include "index/disk_store.h"

namespace sluice::index {
namespace {

int Run(const std::string& data_dir, uint32_t seed) {
  Telemetry telemetry;
  DiskStoreOptions options{.data_dir = data_dir, .telemetry = telemetry};
  options.sync_interval = std::chrono::milliseconds(1);
  absl::StatusOr<std::unique_ptr<DiskStore>> store = DiskStore::OpenStore(options);
  if (!store.ok()) return 1;
  std::mt19937 random(seed);
  while (true) {
    const uint32_t blob_number = random() % kCrashBlobs;
    const ChunkIndex index(random() % kCrashChunks);
    absl::StatusOr<std::shared_ptr<Blob>> blob = (*store)->Open(CrashSpec(blob_number));
    if (!blob.ok()) return 2;
    switch (random() % 16) {
      case 0:
        std::printf("taken %u %u\n", blob_number, index.value());
        if (!(*store)->Revoke(**blob, index).ok()) return 3;
        continue;
      case 1:
        // Overwriting in place, as after a bad chunk: the claim must not survive into the torn state.
        std::printf("taken %u %u\n", blob_number, index.value());
        if (!(*store)->Revoke(**blob, index).ok()) return 4;
        break;
      case 2:
        if (random() % 8 != 0) break;
        std::printf("evicted %u 0\n", blob_number);
        if (!(*store)->Evict(CrashSpec(blob_number).digest, EvictReason::kRequested).ok()) return 5;
        continue;
      default:
        break;
    }
    const std::vector<std::byte> bytes = CrashContent(blob_number, index);
    if (!(*store)->Commit(**blob, index, bytes, Evidence::kVerified).ok()) return 6;
    if (random() % 4 != 0) continue;
    (*store)->Flush();
    std::printf("durable %u %u\n", blob_number, index.value());
  }
}

}  // namespace
}  // namespace sluice::index

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  return sluice::index::Run(argv[1], static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)));
}
