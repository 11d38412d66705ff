#include "index/disk_usage.h"

#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <system_error>

namespace sluice::index {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kStatBlockBytes = 512;  // unit of st_blocks, stat(2)

uint64_t AllocatedAt(const fs::path& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 ? static_cast<uint64_t>(status.st_blocks) * kStatBlockBytes : 0;
}

// Of whatever is there while it is looked at: files come and go meanwhile.
uint64_t AllocatedBelow(const fs::path& path) {
  uint64_t bytes = AllocatedAt(path);
  std::error_code error;
  for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    bytes += AllocatedAt(entry->path());
  }
  return bytes;
}

}  // namespace

void DiskUsage::Add(BlobEntry& entry, int64_t bytes) {
  telemetry_.cache_size_bytes.Add(bytes);
  blob_bytes_ += bytes;
  entry.disk_bytes += static_cast<uint64_t>(bytes);
}

void DiskUsage::Measured(BlobEntry& entry, uint64_t allocated_bytes) {
  Add(entry, static_cast<int64_t>(allocated_bytes) - static_cast<int64_t>(entry.disk_bytes));
  entry.room.Measured(allocated_bytes);
}

void DiskUsage::Reserved(BlobEntry& entry, uint64_t bytes) {
  Add(entry, static_cast<int64_t>(bytes));
}

void DiskUsage::MeasureRest() {
  const Duration now = std::chrono::steady_clock::now().time_since_epoch();
  const int64_t measured = rest_measured_ns_;
  if (measured != 0 && now < Duration(measured) + kRestAgeMax) return;
  rest_measured_ns_ = now.count();
  uint64_t bytes = 0;
  std::error_code error;
  for (fs::directory_iterator entry(data_dir_, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name == "index" || name == "recipes" || name == "RESERVE" || name.starts_with("index.damaged-")) {
      bytes += AllocatedBelow(entry->path());
    }
  }
  rest_bytes_ = bytes;
}

}  // namespace sluice::index
