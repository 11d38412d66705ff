#include "node/daemon/served_counts.h"

#include <utility>

namespace sluice {
namespace {

constexpr Duration kLogPause = std::chrono::seconds(1);

}  // namespace

void ServedCounts::Note(const BlobKey& key, uint64_t length, const absl::StatusOr<ReadResult>& result) {
  std::lock_guard lock(mutex_);
  Counts& counts = entries_[key].counts;
  if (result.ok()) {
    counts.totals.reads[static_cast<size_t>(result->source)] += 1;
    counts.totals.bytes[static_cast<size_t>(result->source)] += length;
  } else {
    ++counts.errors;
    counts.last_error = std::string(result.status().message());
    counts.last_error_time = std::chrono::system_clock::now();
  }
}

uint64_t ServedCounts::ErrorsToLog(const BlobKey& key, Instant now) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  if (found == entries_.end() || now < found->second.log_after) return 0;
  Entry& entry = found->second;
  entry.log_after = now + kLogPause;
  return entry.counts.errors - std::exchange(entry.logged, entry.counts.errors);
}

ServedCounts::Counts ServedCounts::Of(const BlobKey& key) const {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  return found == entries_.end() ? Counts{} : found->second.counts;
}

void ServedCounts::Forget(const BlobKey& key) {
  std::lock_guard lock(mutex_);
  entries_.erase(key);
}

}  // namespace sluice
