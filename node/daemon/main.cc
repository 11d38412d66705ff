#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "node/daemon/config.h"
#include "node/daemon/daemon.h"
#include "node/daemon/log.h"
#include "node/daemon/service_manager.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
// An orderly stop that takes longer is cut short: the node may be killed at any instruction anyway.
constexpr unsigned kStopSecondsMax = 20;

// "key=value" pairs into the map of flags. Returns the first that is none.
std::string SplitFlags(const std::vector<std::string>& settings, sluice::ConfigSources& sources) {
  for (const std::string& setting : settings) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos) return setting;
    sources.flags[setting.substr(0, equals)] = setting.substr(equals + 1);
  }
  return "";
}

// Every thread inherits the mask, so the signals wait for sigwait below.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A write beyond RLIMIT_FSIZE and one to a closed socket are errors to handle, not deaths.
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"sluiced: a blob cache node. It serves container images to the kernel before they are there."};
  app.set_version_flag("--version", std::string("sluiced ") + sluice::kVersion);
  sluice::ConfigSources sources;
  std::vector<std::string> settings;
  app.add_option("--config", sources.file, "YAML file; its keys are in the README")->envname("SLUICE_CONFIG");
  app.add_option("--set", settings,
                 "one setting as key=value, e.g. --set log.level=debug; wins over all else");
  CLI11_PARSE(app, argc, argv);

  const std::string malformed = SplitFlags(settings, sources);
  if (!malformed.empty()) {
    std::fprintf(stderr, "sluiced: --set %s: write it as key=value\n", malformed.c_str());
    return kExitUsage;
  }
  sources.environment = sluice::SluiceEnvironment();
  const absl::StatusOr<sluice::Config> config = sluice::LoadConfig(sources);
  if (!config.ok()) {
    std::fprintf(stderr, "sluiced: %s\n", std::string(config.status().message()).c_str());
    return kExitUsage;
  }

  sluice::SetUpLog(config->log_level, config->log_format);
  const sigset_t signals = BlockStopSignals();
  RaiseFileLimit();
  sluice::ServiceManager service_manager;
  absl::StatusOr<std::unique_ptr<sluice::Daemon>> daemon = sluice::Daemon::Start(*config, service_manager);
  if (!daemon.ok()) {
    spdlog::error("sluiced cannot start: {}", std::string(daemon.status().message()));
    return kExitFailed;
  }
  service_manager.SayReady();
  int received = 0;
  sigwait(&signals, &received);
  spdlog::info("stopping; mounts stay, and their present bytes can be read meanwhile");
  service_manager.SayStopping();
  alarm(kStopSecondsMax);
  daemon->reset();
  return 0;
}
