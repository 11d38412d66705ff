#include "node/daemon/task_limit.h"

#include <pthread.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

constexpr size_t kStackBytes = 64 << 10;

// Threads that wait for it to be opened.
class Gate {
 public:
  static void* Wait(void* gate) {
    static_cast<Gate*>(gate)->WaitUntilOpen();
    return nullptr;
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  void WaitUntilOpen() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

}  // namespace

absl::Status CheckTaskLimit(size_t tasks) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  Gate gate;
  std::vector<pthread_t> threads;
  int error = 0;
  while (error == 0 && threads.size() < tasks) {
    pthread_t thread{};
    error = pthread_create(&thread, &attributes, &Gate::Wait, &gate);
    if (error == 0) threads.push_back(thread);
  }
  gate.Open();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  if (error == 0) return absl::OkStatus();
  const std::string why = std::strerror(error);
  if (error != EAGAIN) return absl::UnavailableError(absl::StrCat("threads can't be made: ", why));
  return absl::ResourceExhaustedError(absl::StrCat(
      "only ", threads.size(), " more threads may be there, and the node needs ", tasks, ": ", why,
      "; raise the limit of tasks (TasksMax= of the service, pids.max of its cgroup, the pod's limit of "
      "processes, "
      "ulimit -u)"));
}

}  // namespace sluice
