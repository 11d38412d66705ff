#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "node/executor.h"

namespace sluice::index {

// The thread that says when a batch is due: `interval` after the first write, at once when `bytes_max` have
// been written or somebody waits for it, and `idle_interval` after the last one.
//
// Thread-safe.
class SyncLoop {
 public:
  struct Limits {
    Duration interval;
    Duration idle_interval;
    uint64_t bytes_max;
  };

  // `run_batch` is called on the loop's thread only.
  SyncLoop(Limits limits, std::function<void()> run_batch);
  ~SyncLoop();

  // Something was written that the next batch is to sync.
  void Wrote(uint64_t bytes);
  // Makes a batch due now, without waiting for it.
  void Hurry();
  // Returns when a batch that began after the call has ended, or the loop has stopped.
  void Flush();
  // Runs a last batch and ends the thread. Idempotent.
  void Stop();

 private:
  void Run();
  bool DueLocked() const;

  const Limits limits_;
  const std::function<void()> run_batch_;

  std::mutex mutex_;                 // guards what follows, except thread_
  std::condition_variable wake_;     // the loop's thread
  std::condition_variable flushed_;  // callers of Flush
  uint64_t bytes_ = 0;
  bool hurry_ = false;
  bool dirty_ = false;
  Instant dirty_since_;
  uint64_t flush_asked_ = 0;
  uint64_t flush_done_ = 0;
  bool stopping_ = false;
  bool stopped_ = false;

  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace sluice::index
