#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "index/store_file_system.h"
#include "index/threads.h"
#include "node/blob_key.h"
#include "node/cancel_check.h"
#include "node/digest.h"
#include "node/recipe_maker.h"

namespace sluice::index {

// The SHA-256 of the first `size` bytes of a file. Gives up with Cancelled when `stop` becomes true. Errors:
// DataLoss (the file is shorter, or can't be read; `failed_at` is the first byte of the kChunkSizeMin that
// could not be). `also`, if it is not null, is given the same bytes, and `on_read` told how many there
// were so far.
absl::StatusOr<Digest> HashFile(StoreFileSystem& file_system, int fd, uint64_t size, const CancelCheck& stop,
                                uint64_t* failed_at, RecipeMaker* also = nullptr,
                                const std::function<void(uint64_t)>& on_read = nullptr);

// One thread of low priority that works through whole-blob checks, first come first served.
//
// Thread-safe.
class BlobHasher {
 public:
  // `check` is called on the hasher's thread; it should return soon after `stop` becomes true.
  using Check = std::function<void(const BlobKey&, const std::atomic<bool>& stop)>;
  BlobHasher(Check check, Threads threads);
  ~BlobHasher();

  // Queues a check; one that is queued already is not queued twice, so the queue is bounded by the blobs.
  void Enqueue(const BlobKey& id);
  // Drops a check that is queued, and ends one that is under way: when this returns it holds no file open.
  // REQUIRES: not called from a check, but with Threads::kNone, where one under way is told to end
  void Forget(const BlobKey& id);
  // Does one check on the caller's thread. Returns whether there was one. REQUIRES: Threads::kNone
  bool RunOne();
  // Drops what is queued and ends the thread. Idempotent.
  void Stop();

 private:
  void Run();
  void CheckFirst(std::unique_lock<std::mutex>& lock);

  const Check check_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> give_up_{false};  // the check under way, or all; set with mutex_ held

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::condition_variable ended_;  // a check
  std::optional<BlobKey> under_way_;
  std::deque<BlobKey> queue_;
  absl::flat_hash_set<BlobKey> queued_;  // the same ids

  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace sluice::index
