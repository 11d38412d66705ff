#include "ondemand/keeper/log.h"

#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <string>
#include <string_view>

namespace sluice::keeper {
namespace {

// Of this process, as standard error is.
std::atomic<QueuedLog*> queued_log{nullptr};

std::string DroppedLine(uint64_t lines) {
  return "sluice-keeper: " + std::to_string(lines) + " log lines were dropped: nobody took them\n";
}

}  // namespace

void Log(const char* format, ...) {
  // One write per line, so that lines of two keepers in one file do not mix.
  char line[1024];
  size_t length = static_cast<size_t>(std::snprintf(line, sizeof(line), "sluice-keeper: "));
  va_list arguments;
  va_start(arguments, format);
  const int added = std::vsnprintf(line + length, sizeof(line) - length - 1, format, arguments);
  va_end(arguments);
  length = std::min(length + static_cast<size_t>(std::max(added, 0)), sizeof(line) - 2);
  line[length++] = '\n';
  if (QueuedLog* const log = queued_log.load()) return log->Write(std::string(line, length));
  WriteIfReady(STDERR_FILENO, std::string_view(line, length));
}

QueuedLog::QueuedLog() : writer_(STDERR_FILENO, DroppedLine) {
  queued_log.store(this);
}

QueuedLog::~QueuedLog() {
  queued_log.store(nullptr);
}

void QueuedLog::CountDroppedIn(std::atomic<uint64_t>& count) {
  count_.store(&count);
}

void QueuedLog::LeaveInChild() {
  queued_log.store(nullptr);
}

void QueuedLog::Write(std::string line) {
  writer_.Write(std::move(line));
  std::atomic<uint64_t>* const count = count_.load();
  if (count == nullptr) return;
  const uint64_t dropped = writer_.dropped();
  count->fetch_add(dropped - counted_.exchange(dropped));
}

}  // namespace sluice::keeper
