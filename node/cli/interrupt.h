#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace sluice::cli {

// Takes SIGINT (Ctrl-C) while it lives: the process goes on, and a wait can be ended in an orderly way.
//
// To be made before other threads are, so that they leave the signal to it; one at a time.
class Interrupt {
 public:
  Interrupt();
  // The signal has its old meaning again on this thread.
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool received() const { return received_; }

  // Called once when the signal comes, on a thread of its own; at once if it has come. None is called any
  // more when this returns with a null function.
  void Call(std::function<void()> on_interrupt);

 private:
  void Wait();

  std::atomic<bool> received_{false};
  std::atomic<bool> ending_{false};
  std::mutex mutex_;
  std::function<void()> on_interrupt_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace sluice::cli
