#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace sluice::cli {

enum class OutputFormat { kTable, kJson };

// A node that takes hints over TLS, and by what this side is known to it.
struct RemoteNode {
  std::string address;               // host:port; empty: the daemon of this host
  std::string ca, certificate, key;  // files in PEM
  std::string peer_name = "sluice";  // the DNS name of the node's certificate
};

// What the flags that every command takes say.
struct GlobalFlags {
  std::string socket = "/run/sluice/api.sock";
  std::string prefetch_socket;  // empty: prefetch.sock beside `socket`
  RemoteNode remote;            // of the commands for hints
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
