#pragma once

#include <cstdint>
#include <memory>
#include <string>

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

  // Opens stderr's file anew, if it is one that is appended to.
  void Reopen();
  uint64_t dropped() const;
  // Whether nobody takes the lines.
  bool Stuck() const;

 private:
  class Sink;
  const std::shared_ptr<Sink> sink_;
};

}  // namespace sluice
