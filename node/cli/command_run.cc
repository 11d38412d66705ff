#include "node/cli/command_run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "node/image/unique_fd.h"

namespace sluice::cli {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

constexpr int kLookMs = 50;
constexpr auto kOwnEnd = std::chrono::seconds(1);
constexpr auto kTermEnd = std::chrono::seconds(10);

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> EnvironmentWith(const std::string& variable) {
  const std::string name = variable.substr(0, variable.find('=') + 1);
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::string_view(*entry).substr(0, name.size()) != name) all.emplace_back(*entry);
  }
  all.push_back(variable);
  return all;
}

// The signals that we take ourselves mean to it what they mean to any program. Errors: InvalidArgument.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command, const std::string& directory,
                            const std::string& variable) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGINT);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<std::string> arguments = command, environment = EnvironmentWith(variable);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, arguments.front().c_str(), &actions, &attributes,
                                 Pointers(arguments).data(), Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error == 0) return pid;
  return absl::InvalidArgumentError(
      absl::StrCat("cannot run ", command.front(), " in ", directory, ": ", strerror(error)));
}

// Ends it, once it has been interrupted, when it does not end by itself.
class Ending {
 public:
  explicit Ending(pid_t pid) : pid_(pid) {}
  void Look(SteadyTime now) {
    if (!is_interrupted_) interrupted_ = now;
    is_interrupted_ = true;
    if (sent_ == 0 && now >= interrupted_ + kOwnEnd) Send(SIGTERM);
    if (sent_ == SIGTERM && now >= interrupted_ + kOwnEnd + kTermEnd) Send(SIGKILL);
  }

 private:
  void Send(int signal) {
    kill(pid_, signal);
    sent_ = signal;
  }

  const pid_t pid_;
  bool is_interrupted_ = false;
  SteadyTime interrupted_{};  // when
  int sent_ = 0;
};

}  // namespace

absl::StatusOr<int> RunCommand(const std::vector<std::string>& command, const std::string& directory,
                               const std::string& variable, Interrupt& interrupt) {
  const absl::StatusOr<pid_t> pid = Spawn(command, directory, variable);
  if (!pid.ok()) return pid.status();
  const UniqueFd ended(static_cast<int>(syscall(SYS_pidfd_open, *pid, 0)));
  Ending ending(*pid);
  int status = 0;
  while (true) {
    pollfd poll_for{ended.get(), POLLIN, 0};
    poll(&poll_for, 1, kLookMs);
    const pid_t gone = waitpid(*pid, &status, WNOHANG);
    if (gone == *pid || (gone < 0 && errno != EINTR)) break;
    if (interrupt.received()) ending.Look(std::chrono::steady_clock::now());
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace sluice::cli
