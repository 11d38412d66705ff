#include "ondemand/keeper/clock.h"

#include <time.h>

#include <cstdio>
#include <cstring>

namespace sluice::keeper {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

int64_t ReadClockOffset() {
  char text[256] = {};
  std::FILE* const file = std::fopen("/proc/self/timens_offsets", "re");
  if (file == nullptr) return 0;
  const size_t length = std::fread(text, 1, sizeof(text) - 1, file);
  std::fclose(file);
  text[length] = 0;
  return ParseClockOffset(text);
}

int64_t ClockOffset() {
  static const int64_t offset = ReadClockOffset();
  return offset;
}

}  // namespace

int64_t ParseClockOffset(const char* text) {
  const char* const found = std::strstr(text, "monotonic");
  long long seconds = 0;
  long long ns = 0;
  if (found == nullptr || std::sscanf(found, "monotonic %lld %lld", &seconds, &ns) != 2) return 0;
  return seconds * kNsPerSecond + ns;
}

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec - ClockOffset();
}

int64_t OwnTimeNs(int64_t machine_ns) {
  return machine_ns + ClockOffset();
}

}  // namespace sluice::keeper
