#include "ondemand/keeper/log.h"

#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace sluice::keeper {

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
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, length);
}

}  // namespace sluice::keeper
