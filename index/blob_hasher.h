#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/status/statusor.h"
#include "index/store_file_system.h"
#include "node/digest.h"

namespace sluice::index {

// The SHA-256 of the first `size` bytes of a file. Gives up with Cancelled when `stop` becomes true. Errors:
// DataLoss (the file is shorter, or can't be read; `failed_at` tells where).
absl::StatusOr<Digest> HashFile(StoreFileSystem& file_system, int fd, uint64_t size,
                                const std::atomic<bool>& stop, uint64_t* failed_at);

// One thread of low priority that works through whole-blob checks, first come first served.
//
// Thread-safe.
class BlobHasher {
 public:
  // `check` is called on the hasher's thread; it should return soon after `stop` becomes true.
  using Check = std::function<void(const Digest&, const std::atomic<bool>& stop)>;
  explicit BlobHasher(Check check);
  ~BlobHasher();

  // Queues a check; one that is queued already is not queued twice, so the queue is bounded by the blobs.
  void Enqueue(const Digest& digest);
  // Drops what is queued and ends the thread. Idempotent.
  void Stop();

 private:
  void Run();

  const Check check_;
  std::atomic<bool> stop_{false};

  std::mutex mutex_;  // guards queue_
  std::condition_variable wake_;
  std::deque<Digest> queue_;

  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace sluice::index
