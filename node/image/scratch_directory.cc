#include "node/image/scratch_directory.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

extern char** environ;

namespace sluice {
namespace {

// `read` returns at the end of the pipe, whoever closed it and however.
// The caller's PATH may lack rm.
constexpr char kRemover[] =
    "trap '' HUP INT TERM; PATH=$PATH:/usr/bin:/bin; read line; exec rm -rf --one-file-system -- \"$1\"";

absl::StatusOr<pid_t> SpawnRemover(const std::string& directory, int pipe_end) {
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_end, STDIN_FILENO);
  // Not ours: whoever reads our output to its end must not wait for the remover.
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  const char* const arguments[] = {"sh", "-c", kRemover, "sh", directory.c_str(), nullptr};
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, "/bin/sh", &actions, &attributes, const_cast<char* const*>(arguments), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return absl::ErrnoToStatus(error, "/bin/sh can't be started");
  return pid;
}

}  // namespace

absl::StatusOr<ScratchDirectory> ScratchDirectory::Make() {
  const char* const base = getenv("TMPDIR");
  std::string path = absl::StrCat(base != nullptr && *base != '\0' ? base : "/var/tmp", "/sluice-XXXXXX");
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "no pipe can be made");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  if (mkdtemp(path.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("directory ", path, " can't be made (set TMPDIR)"));
  }
  absl::StatusOr<pid_t> remover = SpawnRemover(path, read_end.get());
  if (!remover.ok()) {
    rmdir(path.c_str());
    return remover.status();
  }
  return ScratchDirectory(std::move(path), *remover, std::move(write_end));
}

ScratchDirectory::ScratchDirectory(std::string path, pid_t remover, UniqueFd lifeline)
    : path_(std::move(path)), remover_(remover), lifeline_(std::move(lifeline)) {}

ScratchDirectory::~ScratchDirectory() {
  if (!lifeline_.valid()) return;
  lifeline_ = UniqueFd();
  while (waitpid(remover_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace sluice
