#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "node/executor.h"

namespace sluice {

// Looks all the time whether the core loop comes round and whether the data directory takes a write.
//
// Thread-safe.
class NodeHealth {
 public:
  static constexpr Duration kInterval = std::chrono::seconds(2);
  // After which the loop, or a write, counts as stuck.
  static constexpr Duration kLoopLate = std::chrono::seconds(10);
  static constexpr Duration kWriteLate = std::chrono::seconds(5);

  // `clock` and `core` outlive this. `file` is written to; it is made if it is missing.
  NodeHealth(const Clock& clock, Executor& core, std::string file);
  // Does not wait for a write that hangs.
  ~NodeHealth();
  NodeHealth(const NodeHealth&) = delete;
  NodeHealth& operator=(const NodeHealth&) = delete;

  // Neither blocks. Errors: Unavailable.
  absl::Status Loop() const;
  // A full disk is no error: the store makes room.
  absl::Status Disk() const;

 private:
  class Writes;
  struct Beat;
  static void BeatLater(const Clock& clock, Executor& core, std::shared_ptr<Beat> beat);

  const Clock& clock_;
  const std::shared_ptr<Beat> beat_;
  const std::shared_ptr<Writes> writes_;  // its thread's too
};

}  // namespace sluice
