#include "ondemand/keeper/mounting_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <vector>

#include "ondemand/keeper/log.h"
#include "ondemand/keeper/process.h"
#include "ondemand/keeper/wire.h"

namespace sluice::keeper {
namespace {

constexpr int kReapTries = 50;
constexpr useconds_t kReapPauseUs = 2000;

void Report(int line, const Result<Descriptor>& made, int fd) {
  Reply reply;
  if (!made.ok()) {
    reply.error = made.error().code;
    std::snprintf(reply.text, sizeof(reply.text), "%s", made.error().text.c_str());
  }
  (void)SendMessage(line, BytesOf(reply), std::span<const int>(&fd, made.ok() ? 1 : 0));
}

[[noreturn]] void MakeAndReport(int line, pid_t parent, const std::function<Result<Descriptor>()>& make,
                                std::span<const int> keep) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "sluice-mount");
  if (getppid() != parent) _exit(1);
  QueuedLog::LeaveInChild();
  std::vector<int> kept(keep.begin(), keep.end());
  kept.push_back(line);
  CloseOthers(kept);
  Result<Descriptor> made = make();
  Report(line, made, made.ok() ? made.value().get() : -1);
  _exit(0);
}

Result<Descriptor> Receive(int line) {
  Result<Message> message = ReceiveMessage(line);
  if (!message.ok()) return message.error();
  const Reply* reply = ParseReply(message.value().bytes);
  if (reply == nullptr) return Error{EPROTO, "the mounting process said something strange"};
  if (reply->error != 0) return Error{reply->error, reply->text};
  if (message.value().descriptors.size() != 1) return Error{EPROTO, "the mounting process gave no mount"};
  return std::move(message.value().descriptors.front());
}

}  // namespace

MountingProcess::~MountingProcess() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  for (int i = 0; i < kReapTries && waitpid(pid_, nullptr, WNOHANG) == 0; ++i) usleep(kReapPauseUs);
}

Result<Descriptor> MountingProcess::Run(const std::function<Result<Descriptor>()>& make,
                                        const Limits& limits) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return ErrnoError("make a line to the mounting process");
  const Descriptor ours(ends[0]);
  Descriptor theirs(ends[1]);
  const pid_t self = getpid();
  pid_ = fork();
  if (pid_ < 0) return ErrnoError("start a process that mounts");
  if (pid_ == 0) MakeAndReport(theirs.get(), self, make, limits.keep);
  theirs.reset();
  std::vector<pollfd> waits{{ours.get(), POLLIN, 0}};
  for (const int fd : limits.abort_on) waits.push_back({fd, POLLIN | POLLRDHUP, 0});
  const int timeout_ms = static_cast<int>(std::min<int64_t>(limits.timeout_ms, INT_MAX));
  if (poll(waits.data(), waits.size(), timeout_ms) <= 0)
    return Error{ETIMEDOUT, "the kernel did not answer in time"};
  if (waits.front().revents != 0) return Receive(ours.get());
  return Error{ECANCELED, "nobody waits for the mount any more"};
}

Outcome MountingProcess::RunOutcome(const std::function<Outcome()>& work, const Limits& limits) {
  const auto make = [&work]() -> Result<Descriptor> {
    Outcome done = work();
    if (!done.ok()) return done.error();
    return Descriptor(open("/", O_PATH | O_CLOEXEC));
  };
  const Result<Descriptor> made = Run(make, limits);
  return made.ok() ? Outcome() : made.error();
}

}  // namespace sluice::keeper
