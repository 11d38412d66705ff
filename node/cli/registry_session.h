#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "node/daemon/asio_executor.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "p2p/registry/registry_client.h"

namespace sluice::cli {

// How registries are spoken to, by a command that does so without the daemon.
struct RegistryFlags {
  bool plain_http = false;
  std::string ca_file;
  std::string docker_config;
};

// Adds them to a command. `flags` outlives the command.
void AddRegistryFlags(CLI::App& command, RegistryFlags& flags);

// A client with what it runs on.
class RegistrySession {
 public:
  // --plain-http is about `registries`, "host[:port]".
  RegistrySession(const RegistryFlags& flags, std::vector<std::string> registries);

  p2p::RegistryClient& client() { return client_; }

 private:
  SteadyClock clock_;
  Telemetry telemetry_;
  AsioExecutor executor_;
  p2p::RegistryClient client_;
};

}  // namespace sluice::cli
