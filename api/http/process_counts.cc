#include "api/http/process_counts.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <system_error>

namespace sluice::api {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

// Entries of a folder of /proc/self.
uint64_t EntriesOf(const char* folder) {
  std::error_code error;
  uint64_t entries = 0;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    ++entries;
  return entries;
}

}  // namespace

ProcessCounts CountProcess() {
  ProcessCounts counts;
  rusage used{};
  if (getrusage(RUSAGE_SELF, &used) == 0)
    counts.cpu_seconds = Seconds(used.ru_utime) + Seconds(used.ru_stime);
  // Source: proc(5), /proc/pid/statm: pages, all and resident.
  uint64_t pages = 0, resident = 0;
  if (std::ifstream("/proc/self/statm") >> pages >> resident)
    counts.resident_bytes = resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  counts.open_descriptors = EntriesOf("/proc/self/fd");
  counts.threads = EntriesOf("/proc/self/task");
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) counts.descriptors_max = limit.rlim_cur;
  return counts;
}

}  // namespace sluice::api
