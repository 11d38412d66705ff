#include "node/daemon/verifier_program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "index/file_descriptor.h"

namespace sluice {
namespace {

using index::FileDescriptor;

constexpr int64_t kCancelCheckMs = 100;
constexpr char kPath[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

absl::Status Failed(absl::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
}

struct Pipe {
  FileDescriptor read, write;
};

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Failed("no pipe", errno);
  return Pipe{FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

// What the kernel and the library free.
class SpawnPlan {
 public:
  SpawnPlan() {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  // Of a group of its own, and with signals as a program expects them.
  int Spawn(const std::string& path, const std::vector<std::string>& arguments, int in, int out, int err,
            pid_t* pid) {
    posix_spawn_file_actions_adddup2(&actions_, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions_, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions_, err, STDERR_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1);
    posix_spawn_file_actions_addchdir_np(&actions_, "/");
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(&attributes_,
                             POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    std::vector<char*> argv = {const_cast<char*>(path.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    std::array<char*, 2> environment = {const_cast<char*>(kPath), nullptr};
    return posix_spawn(pid, path.c_str(), &actions_, &attributes_, argv.data(), environment.data());
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

// Takes what is there, and keeps what is not too much. Whether more may come.
bool TakeIn(const FileDescriptor& from, std::string* text) {
  std::array<char, 4096> buffer;
  const ssize_t count = read(from.get(), buffer.data(), buffer.size());
  if (count < 0) return errno == EINTR || errno == EAGAIN;
  const size_t room = kOutputBytesMax - std::min(text->size(), kOutputBytesMax);
  text->append(buffer.data(), std::min(static_cast<size_t>(count), room));
  return count > 0;
}

// A program that has been begun. Killed and reaped at the end, with its group.
class Running {
 public:
  explicit Running(pid_t pid) : pid_(pid), ended_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {}
  ~Running() {
    if (!reaped_) End();
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  const FileDescriptor& ended() const { return ended_; }
  // How it ended. Whoever is left of its group can't say anything more.
  int End() {
    kill(-pid_, SIGKILL);
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    reaped_ = true;
    return status;
  }

 private:
  const pid_t pid_;
  const FileDescriptor ended_;
  bool reaped_ = false;
};

// Until it has ended, and what it said before is in. Errors: DeadlineExceeded, Unavailable.
absl::Status Listen(const Running& running, const FileDescriptor& out, const FileDescriptor& err,
                    Instant deadline, const CancelCheck& cancelled, ProgramAnswer* answer) {
  std::array<pollfd, 3> waits = {pollfd{running.ended().get(), POLLIN, 0}, pollfd{out.get(), POLLIN, 0},
                                 pollfd{err.get(), POLLIN, 0}};
  for (bool has_ended = false;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) return absl::DeadlineExceededError("it did not answer in time");
    if (cancelled) return absl::CancelledError("the node is stopping");
    const int wait_ms = has_ended ? 0 : static_cast<int>(std::min<int64_t>(left, kCancelCheckMs));
    const int count = poll(waits.data(), waits.size(), wait_ms);
    if (count < 0 && errno != EINTR) return Failed("poll", errno);
    if (count == 0 && has_ended) return absl::OkStatus();
    if (count <= 0) continue;
    if (waits[1].revents != 0 && !TakeIn(out, &answer->output)) waits[1].fd = -1;
    if (waits[2].revents != 0 && !TakeIn(err, &answer->errors)) waits[2].fd = -1;
    if (waits[0].revents != 0) {
      has_ended = true;
      waits[0].fd = -1;
    }
  }
}

}  // namespace

absl::StatusOr<ProgramAnswer> RunProgram(const std::string& path, const std::vector<std::string>& arguments,
                                         const std::string& input, Duration timeout,
                                         const CancelCheck& cancelled) {
  const Instant deadline = std::chrono::steady_clock::now() + timeout;
  absl::StatusOr<Pipe> in = MakePipe(), out = MakePipe(), err = MakePipe();
  for (const absl::Status& status : {in.status(), out.status(), err.status()}) {
    if (!status.ok()) return status;
  }
  // A pipe takes as much without anybody reading.
  if (write(in->write.get(), input.data(), input.size()) != static_cast<ssize_t>(input.size()))
    return Failed("cannot write to a pipe", errno);
  pid_t pid = 0;
  const int error =
      SpawnPlan().Spawn(path, arguments, in->read.get(), out->write.get(), err->write.get(), &pid);
  if (error != 0) return Failed("it can't be run", error);
  Running running(pid);
  for (Pipe* pipe : {&*in, &*out, &*err}) (pipe == &*in ? pipe->read : pipe->write) = FileDescriptor();
  in->write = FileDescriptor();
  if (!running.ended().valid()) return Failed("it can't be waited for", ENOSYS);
  ProgramAnswer answer;
  if (absl::Status heard = Listen(running, out->read, err->read, deadline, cancelled, &answer); !heard.ok())
    return heard;
  const int status = running.End();
  if (!WIFEXITED(status))
    return absl::UnavailableError(absl::StrCat("it was ended by signal ", WTERMSIG(status)));
  answer.exit_code = WEXITSTATUS(status);
  answer.output = std::string(absl::StripAsciiWhitespace(answer.output));
  answer.errors = std::string(absl::StripAsciiWhitespace(answer.errors));
  return answer;
}

}  // namespace sluice
