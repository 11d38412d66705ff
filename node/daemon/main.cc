#include <fcntl.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "node/daemon/config.h"
#include "node/daemon/daemon.h"
#include "node/daemon/grpc_log.h"
#include "node/daemon/log.h"
#include "node/daemon/service_manager.h"
#include "node/daemon/task_limit.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
// An orderly stop that takes longer is cut short: the node may be killed at any instruction anyway.
constexpr unsigned kStopSecondsMax = 20;

// The folders and files that root trusts have the same modes whoever starts us.
constexpr mode_t kUmask = 022;

// A library has an eventfd before main begins, with the number of a standard stream that is closed.
bool IsTaken(int stream) {
  char target[64] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(stream);
  return readlink(link.c_str(), target, sizeof(target) - 1) > 0 && target[0] != '/' &&
         std::string_view(target).starts_with("anon_inode:");
}

// Or else a file of ours would get the number of a standard stream that is closed, and then our log.
void OccupyStandardStreams(char** argv) {
  const int null = open("/dev/null", O_RDWR);
  bool taken = false;
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    const bool library = IsTaken(stream);
    if (library || (fcntl(stream, F_GETFD) < 0 && stream != null)) dup2(null, stream);
    taken |= library;
  }
  if (null > STDERR_FILENO) close(null);
  if (taken) execv("/proc/self/exe", argv);
}

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
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, number);
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
  OccupyStandardStreams(argv);
  umask(kUmask);
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

  const sigset_t signals = BlockSignals();
  sluice::DaemonLog log(config->log_level, config->log_format);
  const sluice::GrpcLog grpc_log;
  for (const std::string& name : sluice::UnknownVariables(sources.environment))
    spdlog::warn("the environment variable {} is none of sluiced's and does nothing; the README lists them",
                 name);
  RaiseFileLimit();
  if (const absl::Status tasks = sluice::CheckTaskLimit(); !tasks.ok()) {
    spdlog::error("sluiced cannot start: {}", std::string(tasks.message()));
    return kExitFailed;
  }
  sluice::ServiceManager service_manager;
  absl::StatusOr<std::unique_ptr<sluice::Daemon>> daemon =
      sluice::Daemon::Start(*config, service_manager, log);
  if (!daemon.ok()) {
    spdlog::error("sluiced cannot start: {}", std::string(daemon.status().message()));
    return kExitFailed;
  }
  service_manager.SayReady();
  int received = 0;
  // Terminals that close and those who rotate logs mean no harm.
  while (sigwait(&signals, &received) == 0 && received == SIGHUP) {
    log.Reopen();
    (*daemon)->ReopenKeeperLog();
    spdlog::info("SIGHUP: log files are opened anew");
  }
  spdlog::info("stopping; mounts stay, and their present bytes can be read meanwhile");
  service_manager.SayStopping();
  alarm(kStopSecondsMax);
  daemon->reset();
  return 0;
}
