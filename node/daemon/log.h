#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

// Makes spdlog's default logger write to stderr through a bounded queue: whoever logs never waits for whoever
// reads. Lines that find no room are dropped and counted.
//
// Thread-safe, but for its constructor and destructor.
class DaemonLog {
 public:
  // `level` is "debug", "info", "warn" or "error", `format` "text" or "json". REQUIRES: no thread logs yet
  DaemonLog(const std::string& level, const std::string& format);
  // Gives the lines that wait a moment to be written. REQUIRES: no thread logs any more
  ~DaemonLog();
  DaemonLog(const DaemonLog&) = delete;
  DaemonLog& operator=(const DaemonLog&) = delete;

  // What is logged from now on, as the constructor has it; returns what was before. REQUIRES: it is one of
  // those
  std::string SetLevel(const std::string& level);
  std::string level() const;
  // Opens stderr's file anew, if it is one that is appended to.
  void Reopen();
  uint64_t dropped() const;
  // The last warnings and errors, the newest last; each cut to kRecentBytesMax.
  static constexpr size_t kRecentMax = 50;
  static constexpr size_t kRecentBytesMax = 1000;
  struct Line {
    int64_t time_ms = 0;  // since 1970
    std::string level;    // "warning", "error"
    std::string text;
  };
  std::vector<Line> Recent() const;
  // Whether nobody takes the lines.
  bool Stuck() const;

 private:
  class Sink;
  const std::shared_ptr<Sink> sink_;
};

}  // namespace sluice
