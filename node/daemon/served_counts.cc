#include "node/daemon/served_counts.h"

namespace sluice {

void ServedCounts::Note(const Digest& digest, uint64_t length, const absl::StatusOr<ReadResult>& result) {
  std::lock_guard lock(mutex_);
  Counts& counts = counts_[digest];
  if (result.ok()) {
    counts.totals.reads[static_cast<size_t>(result->source)] += 1;
    counts.totals.bytes[static_cast<size_t>(result->source)] += length;
  } else {
    ++counts.errors;
    counts.last_error = std::string(result.status().message());
  }
}

ServedCounts::Counts ServedCounts::Of(const Digest& digest) const {
  std::lock_guard lock(mutex_);
  const auto found = counts_.find(digest);
  return found == counts_.end() ? Counts{} : found->second;
}

void ServedCounts::Forget(const Digest& digest) {
  std::lock_guard lock(mutex_);
  counts_.erase(digest);
}

}  // namespace sluice
