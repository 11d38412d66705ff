#include "node/image/subprocess.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "node/image/unique_fd.h"

extern char** environ;

namespace sluice {
namespace {

// Reads to the end, so that the program never waits for its pipe, but keeps only the last bytes.
std::string ReadTail(int fd) {
  std::string tail;
  std::array<char, 4096> buffer;
  while (true) {
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return tail;
    tail.append(buffer.data(), static_cast<size_t>(n));
    if (tail.size() > kStderrBytesMax) tail.erase(0, tail.size() - kStderrBytesMax);
  }
}

int WaitFor(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command, int stderr_fd) {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, stderr_fd, STDERR_FILENO);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat(command[0], " can't be started"));
  return pid;
}

}  // namespace

absl::Status RunProgram(const std::vector<std::string>& command) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "no pipe can be made");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  absl::StatusOr<pid_t> pid = Spawn(command, write_end.get());
  write_end = UniqueFd();
  if (!pid.ok()) return pid.status();
  const std::string said = ReadTail(read_end.get());
  const int status = WaitFor(*pid);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  const std::string how = WIFEXITED(status) ? absl::StrCat("exit status ", WEXITSTATUS(status))
                                            : absl::StrCat("signal ", WTERMSIG(status));
  return absl::InternalError(
      absl::StrCat(command[0], " failed (", how, "): ", absl::StripAsciiWhitespace(said)));
}

}  // namespace sluice
