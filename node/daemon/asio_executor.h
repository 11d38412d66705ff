#pragma once

#include <chrono>
#include <memory>

#include "node/executor.h"

namespace sluice {

class SteadyClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::steady_clock::now(); }
};

// An executor on an io_context of its own. With one thread it is serial: the core loop; with several it is
// the I/O pool.
//
// Thread-safe. Stop is idempotent; tasks that have not run by then are dropped in the destructor.
class AsioExecutor final : public Executor {
 public:
  // `name` is what the threads are called (at most 15 characters). REQUIRES: thread_count > 0
  AsioExecutor(const char* name, int thread_count);
  ~AsioExecutor() override;

  void Post(Task task) override;
  void PostAt(Instant when, Task task) override;

  // Lets running tasks end and joins the threads. Not on one of them.
  void Stop();

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
