#pragma once

#include <atomic>
#include <cstdint>

#include "ondemand/keeper/line_writer.h"

namespace sluice::keeper {

// Writes one line "sluice-keeper: ..." to standard error: through the QueuedLog if there is one, else at once
// or not at all. Thread-safe; never fails, and waits for nobody.
[[gnu::format(printf, 1, 2)]] void Log(const char* format, ...);

// While it lives, lines go through a queue. One at a time.
class QueuedLog {
 public:
  QueuedLog();
  ~QueuedLog();
  QueuedLog(const QueuedLog&) = delete;
  QueuedLog& operator=(const QueuedLog&) = delete;

  // Adds the lines that are dropped to `count` too, which outlives this.
  void CountDroppedIn(std::atomic<uint64_t>& count);
  void Reopen() { writer_.Reopen(); }

  // For a child that was forked, which has no thread: its lines are written at once.
  static void LeaveInChild();

 private:
  friend void Log(const char* format, ...);
  void Write(std::string line);

  LineWriter writer_;
  std::atomic<std::atomic<uint64_t>*> count_{nullptr};
  std::atomic<uint64_t> counted_{0};
};

}  // namespace sluice::keeper
