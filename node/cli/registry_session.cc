#include "node/cli/registry_session.h"

#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::cli {
namespace {

// Where docker and its kin look.
std::string DefaultDockerConfig() {
  const char* const directory = std::getenv("DOCKER_CONFIG");
  const char* const home = std::getenv("HOME");
  const std::string path = directory != nullptr ? absl::StrCat(directory, "/config.json")
                           : home != nullptr    ? absl::StrCat(home, "/.docker/config.json")
                                                : "";
  return !path.empty() && access(path.c_str(), F_OK) == 0 ? path : "";
}

p2p::RegistryOptions OptionsOf(const RegistryFlags& flags, std::vector<std::string> registries) {
  p2p::RegistryOptions options;
  options.docker_config_path = flags.docker_config.empty() ? DefaultDockerConfig() : flags.docker_config;
  options.ca_file = flags.ca_file;
  if (flags.plain_http) options.plain_http = std::move(registries);
  return options;
}

}  // namespace

void AddRegistryFlags(CLI::App& command, RegistryFlags& flags) {
  command.add_flag("--plain-http", flags.plain_http, "Speak http, not https, to the registries named here");
  command.add_option("--ca-file", flags.ca_file, "Certificates (PEM) to trust instead of the system's")
      ->check(CLI::ExistingFile);
  command
      .add_option("--docker-config", flags.docker_config,
                  "Credentials (default: config.json in $DOCKER_CONFIG or ~/.docker)")
      ->check(CLI::ExistingFile);
}

RegistrySession::RegistrySession(const RegistryFlags& flags, std::vector<std::string> registries)
    : executor_("registry", 1),
      client_({clock_, executor_, telemetry_}, OptionsOf(flags, std::move(registries))) {}

}  // namespace sluice::cli
