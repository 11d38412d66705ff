#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "node/executor.h"

namespace sluice::api {

// Threads for calls that block, apart from gRPC's own: a slow mount must not keep the server from answering.
//
// Thread-safe.
class CallPool {
 public:
  // REQUIRES: threads > 0, waiting_max >= 0
  CallPool(int threads, int waiting_max);
  ~CallPool();  // stops
  CallPool(const CallPool&) = delete;
  CallPool& operator=(const CallPool&) = delete;

  // Runs what is waiting, then ends. Idempotent; to be called by one thread, which is none of its own.
  // REQUIRES: nothing is posted any more
  void Stop();

  // Errors: ResourceExhausted, if all threads are busy and `waiting_max` calls wait; `task` is then dropped.
  absl::Status Post(Task task);

 private:
  void Work();

  // Constant after construction.
  const size_t waiting_max_;

  // Guarded by mutex_.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> waiting_;
  size_t idle_ = 0;
  bool ending_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace sluice::api
