#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "node/executor.h"

namespace sluice::p2p {

// A few threads that hash and read for the swarm, in order of posting. Thread-safe.
//
// Its queue holds at most one job per block that libtorrent reads ahead for its peers (bounded by the send
// buffers of its connections) and one per piece whose bytes are held (bounded by kPieceBytesMax).
class DiskWorkers {
 public:
  explicit DiskWorkers(int count);
  ~DiskWorkers() { Stop(); }

  void Post(Task task) { PostAt(Instant{}, std::move(task)); }
  // Runs `task` at `when` or soon after.
  void PostAt(Instant when, Task task);
  // Returns when no task runs any more, with those that never ran, for the caller to destroy. Idempotent.
  // Tasks posted later are dropped.
  std::vector<Task> Stop();

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  bool stopping_ = false;
  std::multimap<Instant, Task> tasks_;  // equal times in order of posting

  std::vector<std::thread> threads_;
};

}  // namespace sluice::p2p
