#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace sluice::cli {

enum class OutputFormat { kTable, kJson };

// What the flags that every command takes say.
struct GlobalFlags {
  std::string socket = "/run/sluice/api.sock";
  std::string prefetch_socket;  // empty: prefetch.sock beside `socket`
  std::string timeout;          // as absl::ParseDuration reads it; empty: the command's own default
  OutputFormat output = OutputFormat::kTable;
};

// A command line, as parsing fills it in: each command's parser callback sets `run`, main calls it. What
// `run` prints to stdout is the answer; its status decides the exit code and the line on stderr.
struct Invocation {
  GlobalFlags flags;
  std::function<absl::Status()> run;
};

}  // namespace sluice::cli
