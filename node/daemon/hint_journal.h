#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/file_descriptor.h"
#include "node/daemon/hint_codec.h"

namespace sluice {

// The file that remembers hints: small, of its own. Now and then it is replaced as a whole, and synced;
// between, lines are added to it, which outlive the process at once and a power cut with luck. Hints are
// advice: a file that is damaged, or a copy of another moment that was put back, is left out and costs
// nothing but them.
//
// The first line is {"version", "file", "hints"}, each other one {"taken": hint} or {"over": id}.
//
// Thread-safe. Blocks on disk; AddTaken and AddOver only as far as a write to a file does.
class HintJournal {
 public:
  static constexpr size_t kBytesMax = 64 << 20;
  static constexpr size_t kAddedBytesMax = 16 << 20;  // between two saves

  explicit HintJournal(std::string path) : path_(std::move(path)) {}

  // In the order in which they were taken; none if there is no file. What a power cut has left of a line, and
  // what comes after it, is left out. Errors: DataLoss (no journal, or a copy of another moment),
  // Unavailable.
  absl::StatusOr<std::vector<JournalledHint>> Load() const;

  // From here on what is added is no part of the hints that the next Save is given, or need not be: it stays.
  void BeginSave();
  // Replaces the file atomically and synced, but for what was added since BeginSave; one at a time. Errors:
  // Unavailable; then the file is as it was.
  absl::Status Save(const std::vector<JournalledHint>& hints);

  // Adds to the file that the latest Save has made. A hint takes the place of one with its id. Errors:
  // Unavailable (there was none, the disk takes nothing, or kAddedBytesMax); then nothing is added before the
  // next Save.
  absl::Status AddTaken(const std::vector<JournalledHint>& hints);
  absl::Status AddOver(const std::vector<std::string>& ids);

 private:
  absl::Status Add(const std::string& lines);

  const std::string path_;
  std::mutex mutex_;
  index::FileDescriptor file_;  // guarded by mutex_; invalid: nothing can be added
  bool saving_ = false;         // guarded by mutex_
  size_t added_bytes_ = 0;      // guarded by mutex_; to the file as it is
  std::string since_;           // guarded by mutex_; what was added since BeginSave
};

}  // namespace sluice
