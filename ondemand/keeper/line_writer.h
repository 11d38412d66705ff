#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace sluice::keeper {

// Writes a line, or its first PIPE_BUF bytes, if nobody has to wait for that; else drops it.
void WriteIfReady(int fd, std::string_view line);

// Log lines on their way to a descriptor, in a bounded queue that a thread of its own empties: whoever logs
// never waits for whoever reads. While nobody does (a full pipe, a frozen disk) lines are dropped and
// counted.
//
// Thread-safe.
class LineWriter {
 public:
  static constexpr size_t kBytesMax = 1 << 20;  // that wait
  static constexpr int kStuckMs = 250;
  static constexpr int kLastLinesMs = 500;
  // The text of a line, with its end, which says that so many were dropped.
  using DroppedLine = std::function<std::string(uint64_t)>;

  // Without a thread, where none can be had, lines are written at once, or dropped if that would be a wait.
  // `fd` is not closed, and is used until the last line is written: whatever happens to this object.
  LineWriter(int fd, DroppedLine dropped_line);
  // Gives what waits kLastLinesMs to be written.
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  // `line` has its end. One that does not fit into the queue is dropped.
  void Write(std::string line);

  // Opens the file anew by the name that it had when this object was made, where the descriptor is of a
  // regular file that was opened for appending: after its lines were moved elsewhere. Does nothing if there
  // is none, or the file can't be opened. The lines that wait go to the new one.
  void Reopen();

  // Since this object was made.
  uint64_t dropped() const;
  // Whether a line has waited for longer than kStuckMs to be taken.
  bool Stuck() const;

 private:
  struct Shared;
  // The thread's too, which may have to be left behind in the middle of a write.
  const std::shared_ptr<Shared> shared_;
};

}  // namespace sluice::keeper
