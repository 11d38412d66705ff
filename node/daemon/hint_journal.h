#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/daemon/hint_codec.h"

namespace sluice {

// The file that remembers hints: small, of its own, replaced as a whole. Hints are advice: a file that is
// damaged, or a copy of another moment that was put back, is left out and costs nothing but them.
//
// Not thread-safe. Blocks on disk.
class HintJournal {
 public:
  static constexpr size_t kBytesMax = 64 << 20;

  explicit HintJournal(std::string path) : path_(std::move(path)) {}

  // In the order in which they were taken; none if there is no file. Errors: DataLoss (no journal, or a copy
  // of another moment), Unavailable.
  absl::StatusOr<std::vector<JournalledHint>> Load() const;
  // Replaces the file atomically and synced. Errors: Unavailable; then the file is as it was.
  absl::Status Save(const std::vector<JournalledHint>& hints) const;

 private:
  const std::string path_;
};

}  // namespace sluice
