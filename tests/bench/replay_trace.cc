// Replays what a program's start read of an image, as long after one another as the program took for its own
// part.
//
// usage: replay_trace TRACE ROOT LIKE [SINCE]
//
// Reads the files below ROOT. Prints the seconds until the program would have ended, since SINCE (seconds
// since 1970; default: now), and of them those that the program needs by itself. What is read must be the
// bytes of LIKE.

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/bench/start_trace.h"
#include "tests/bench/trace_player.h"

namespace sluice::bench {
namespace {

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

absl::StatusOr<StartTrace> ReadTrace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": can't be read"));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  absl::StatusOr<StartTrace> trace = ParseTrace(text);
  if (!trace.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", trace.status().message()));
  return trace;
}

absl::Status Replay(const std::string& path, const std::string& root, const std::string& like, double since) {
  absl::StatusOr<StartTrace> trace = ReadTrace(path);
  if (!trace.ok()) return trace.status();
  const double own_seconds = std::chrono::duration<double>(trace->OwnTime()).count();
  TracePlayer player(*std::move(trace));
  if (absl::Status done = player.Play(root); !done.ok()) return done;
  const double took_seconds = NowSeconds() - since;
  if (absl::Status done = player.CheckAgainst(like); !done.ok()) return done;
  std::printf("%.6f %.6f\n", took_seconds, own_seconds);
  return absl::OkStatus();
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  double since = sluice::bench::NowSeconds();
  if (argc < 4 || argc > 5 || (argc == 5 && !absl::SimpleAtod(argv[4], &since))) {
    std::cerr << "usage: replay_trace TRACE ROOT LIKE [SINCE]\n";
    return 2;
  }
  const absl::Status done = sluice::bench::Replay(argv[1], argv[2], argv[3], since);
  if (!done.ok()) std::cerr << "replay_trace: " << done << "\n";
  return done.ok() ? 0 : 1;
}
