#include "ondemand/keeper/process.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace sluice::keeper {
namespace {

constexpr char kCgroupRoot[] = "/sys/fs/cgroup";
constexpr char kOwnCgroup[] = "/sys/fs/cgroup/sluice-keeper";

bool WriteFile(const std::string& path, std::string_view text) {
  Descriptor file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file.valid() && write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// systemd and the kubelet kill a whole cgroup. Only in the unified hierarchy: in a hybrid one the controllers
// that account for us are elsewhere.
void LeaveCgroup() {
  struct statfs status {};
  if (statfs(kCgroupRoot, &status) != 0 || status.f_type != CGROUP2_SUPER_MAGIC) return;
  if (mkdir(kOwnCgroup, 0755) != 0 && errno != EEXIST) return;
  WriteFile(std::string(kOwnCgroup) + "/cgroup.procs", "0");
}

}  // namespace

void CloseOthers(std::span<const int> keep) {
  std::vector<int> kept(keep.begin(), keep.end());
  kept.push_back(STDERR_FILENO);
  std::sort(kept.begin(), kept.end());
  unsigned first = 0;
  for (const int fd : kept) {
    if (fd < 0) continue;
    const auto number = static_cast<unsigned>(fd);
    if (number > first) close_range(first, number - 1, 0);
    first = std::max(first, number + 1);
  }
  close_range(first, ~0u, 0);
}

void LeaveParent(std::span<const int> keep, CgroupOf cgroup) {
  setsid();
  prctl(PR_SET_NAME, "sluice-keeper");
  if (cgroup == CgroupOf::kParent) LeaveCgroup();
  WriteFile("/proc/self/oom_score_adj", "-1000");
  CloseOthers(keep);
  // Numbers 0 and 1 are never an event's.
  while (true) {
    const int null = open("/dev/null", O_RDWR);
    if (null <= STDERR_FILENO && null >= 0) continue;
    if (null > STDERR_FILENO) close(null);
    break;
  }
  if (chdir("/") != 0) return;
}

Result<uint32_t> LimitDescriptors(uint32_t slots) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoError("read the limit on descriptors");
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, rlim_t{slots} + kOwnDescriptors);
  if (limit.rlim_cur < kOwnDescriptors + kSlotsMin) {
    return Error{EMFILE, "the hard limit on descriptors (ulimit -Hn) is " + std::to_string(limit.rlim_max) +
                             ", too low to hold reads; raise it (LimitNOFILE=)"};
  }
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoError("set the limit on descriptors");
  return static_cast<uint32_t>(limit.rlim_cur) - kOwnDescriptors;
}

uint32_t DescriptorLimit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<uint32_t>(limit.rlim_cur);
}

Result<Descriptor> LockRuntime(const std::string& path) {
  Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.valid()) return ErrnoError("open " + path);
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  if (errno == EWOULDBLOCK) return Error{EALREADY, "another keeper runs already and holds " + path};
  return ErrnoError("lock " + path);
}

Result<Descriptor> LockDirectory(const std::string& path) {
  Descriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return ErrnoError("open " + path);
  if (flock(directory.get(), LOCK_EX | LOCK_NB) == 0) return directory;
  if (errno == EWOULDBLOCK) {
    return Error{EALREADY, "the keeper of " + path + " lives, and can't be reached: \"fuser -v " + path +
                               "\" names it; nothing is taken from it"};
  }
  return ErrnoError("lock " + path);
}

Result<Descriptor> LockJournal(int journal) {
  // Opened anew: duplicates of one descriptor share their lock.
  Descriptor file(open(("/proc/self/fd/" + std::to_string(journal)).c_str(), O_RDWR | O_CLOEXEC));
  if (!file.valid()) return ErrnoError("open the journal anew");
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  if (errno == EWOULDBLOCK) return Error{EALREADY, "another keeper works with this journal"};
  return ErrnoError("lock the journal");
}

}  // namespace sluice::keeper
