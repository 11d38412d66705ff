#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "node/executor.h"

namespace sluice::api {

// Threads for calls that block, apart from gRPC's own: a slow mount must not keep the server from answering.
// Calls of one group, as mounts from one registry, have no more of the threads than they leave free for
// others: half if they are alone. Of the places in which calls wait they have half at most. So a group that
// stalls holds up nobody else.
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

  // Of no group if that is empty. Errors: ResourceExhausted, if all threads that it may have are busy and
  // as many calls as may wait do; `task` is then dropped.
  absl::Status Post(Task task, const std::string& group = {});

 private:
  struct Call {
    std::string group;
    Task task;
  };

  void Work();
  // REQUIRES: mutex_ is held; so do those that follow
  size_t FreeFor(const std::string& group) const;
  std::deque<Call>::iterator NextToRun();

  // Constant after construction.
  const size_t threads_max_;
  const size_t waiting_max_;

  // Guarded by mutex_.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Call> waiting_;
  absl::flat_hash_map<std::string, size_t> running_;  // by group; those with none are not in it
  size_t idle_ = 0;
  bool ending_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace sluice::api
