// usage: crowd_sim CASE [NODES [BYTES [SEED [INFLIGHT_BYTES]]]]
//
// Prints what the run came to, a figure a line: its name and its value.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <optional>

#include "tests/sim/crowd/crowd.h"

int main(int argc, char** argv) {
  using sluice::sim::Crowd;
  const std::optional<Crowd::Case> which = argc > 1 ? sluice::sim::CaseNamed(argv[1]) : std::nullopt;
  if (!which) {
    std::fprintf(stderr,
                 "usage: crowd_sim cold|join|join-parts|vanish|stale-views|one-chunk|control "
                 "[NODES [BYTES [SEED [INFLIGHT_BYTES [MBIT_PER_S]]]]]\n");
    return 2;
  }
  sluice::sim::CrowdOptions options;
  if (argc > 2) options.nodes = std::strtoul(argv[2], nullptr, 10);
  if (argc > 3) options.bytes = std::strtoull(argv[3], nullptr, 10);
  if (argc > 4) options.seed = std::strtoull(argv[4], nullptr, 10);
  if (argc > 5) options.inflight_bytes = std::strtoull(argv[5], nullptr, 10);
  if (argc > 6) options.link_bytes = std::strtod(argv[6], nullptr) * 1e6 / 8;
  Crowd crowd(options);
  for (const auto& [name, value] : crowd.Run(*which)) std::printf("%s %.6g\n", name.c_str(), value);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("cpu_s %.1f\nresident_mb %.1f\n",
              static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                  static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6,
              static_cast<double>(usage.ru_maxrss) / 1024);
  std::fflush(stdout);
  std::_Exit(0);  // what is left of a million requests need not be taken apart
}
