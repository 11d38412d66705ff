#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "index/blob_entry.h"
#include "index/threads.h"
#include "node/blob.h"
#include "node/executor.h"

namespace sluice::index {

// Tells the kernel's side, in order per blob, that a blob is settled or that some of it was taken back, and
// tells it again until it was heard. What is to be told lies in the BlobEntry: of a blob that was settled and
// then taken back only the latter is told. One that fails does not hold up others.
//
// Thread-safe.
class Notifier {
 public:
  struct Callbacks {
    // A failure is tried again, later and later, at most kRetryMax apart; Aborted is no failure to speak of:
    // whoever is to hear it is not there yet. Either may be empty.
    std::function<absl::Status(const std::shared_ptr<Blob>&)> on_complete;
    std::function<absl::Status(const Blob&)> on_revoke;
    std::function<void(const std::string&)> alarm;
  };
  static constexpr Duration kRetryMin = std::chrono::milliseconds(10);
  static constexpr Duration kRetryMax = std::chrono::seconds(2);
  static constexpr uint32_t kAlarmFailures = 8;  // in a row; about a second

  // `wait_max`: of each wait below.
  Notifier(Callbacks callbacks, Threads threads, Duration wait_max);
  ~Notifier();

  // Something is to be told of `entry`. There is one notice of an entry at most, so that their number is
  // bounded by that of the blobs. REQUIRES: entry->mutex is held
  void Schedule(const EntryPtr& entry);

  // Returns when all that was taken back before was told. Errors: Unavailable (not within `wait_max`, the
  // last try failed, or stopped; it goes on being tried). REQUIRES: no entry is locked; not called from a
  // callback
  absl::Status WaitTold(const EntryPtr& entry);
  // Returns when what was scheduled before has been told or tried, or after `wait_max`.
  void Flush();

  // Tells one thing that is due; with Threads::kNone whenever it failed last. Returns whether there was one.
  bool RunOne();
  // Tries the rest once and ends the thread. Idempotent.
  void Stop();

 private:
  struct Notice {
    EntryPtr entry;
    uint32_t failures = 0;
    uint64_t flush = 0;  // how many flushes were asked for when it was scheduled or tried last
  };
  using Queue = std::multimap<Instant, Notice>;

  Instant Now() const;
  void Run();
  bool RunFirst(std::unique_lock<std::mutex>& lock);
  absl::Status Tell(BlobEntry& entry);
  absl::Status TellRevoked(BlobEntry& entry);
  absl::Status TellComplete(BlobEntry& entry);
  void Retry(Notice notice, const absl::Status& why);
  bool AllTriedSince(uint64_t flush) const;

  const Callbacks callbacks_;
  const Threads threads_;
  const Duration wait_max_;

  std::mutex mutex_;  // guards what follows; taken after a BlobEntry::mutex
  std::condition_variable wake_;
  std::condition_variable told_;
  Queue queue_;  // by when each is due
  uint64_t flushes_ = 0;
  uint64_t telling_flush_ = UINT64_MAX;  // Notice::flush of the one that is being told
  bool stop_ = false;
  bool stopped_ = false;

  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace sluice::index
