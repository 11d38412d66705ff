#include "ondemand/keeper/host.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string_view>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/log.h"

namespace sluice::keeper {
namespace {

constexpr char kOwnCgroup[] = "/sluice-keeper";
// Of systemd itself: sd_booted(3).
constexpr char kSystemdBooted[] = "/run/systemd/system";
constexpr char kSystemdRun[] = "/usr/bin/systemd-run";

struct Namespace {
  const char* name;
  int type;
};
// Mounts last: with them /proc becomes the host's.
constexpr Namespace kNamespaces[] = {{"cgroup", CLONE_NEWCGROUP},
                                     {"net", CLONE_NEWNET},
                                     {"ipc", CLONE_NEWIPC},
                                     {"uts", CLONE_NEWUTS},
                                     {"mnt", CLONE_NEWNS}};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string FolderOf(pid_t process) {
  return "/proc/" + std::to_string(process);
}

// 0 if it has none, or is gone.
pid_t ParentOf(pid_t process) {
  std::ifstream status(FolderOf(process) + "/status");
  for (std::string line; std::getline(status, line);) {
    pid_t parent = 0;
    if (std::sscanf(line.c_str(), "PPid: %d", &parent) == 1) return parent;
  }
  return 0;
}

bool EnterCgroup(const std::string& folder) {
  const Descriptor file(open((folder + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
  return file.valid() && write(file.get(), "0", 1) == 1;
}

// Hierarchy by hierarchy, where this process is.
std::map<std::string, std::string> OwnCgroups() {
  std::map<std::string, std::string> paths;
  std::istringstream lines(ReadFile("/proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const size_t path = line.rfind(':');
    if (path != std::string::npos) paths[line.substr(0, path)] = line.substr(path + 1);
  }
  return paths;
}

// A pod's end kills what is in its cgroup, whichever of the hierarchies is asked for that.
Outcome LeaveCgroups() {
  const std::map<std::string, std::string> before = OwnCgroups();
  for (const std::string& root : CgroupRoots(ReadFile("/proc/self/mountinfo"))) {
    const std::string own = root + kOwnCgroup;
    const bool made = mkdir(own.c_str(), 0755) == 0 || errno == EEXIST;
    if (made && EnterCgroup(own)) continue;
    // Not every controller of the first version lets a process into a cgroup that has just been made.
    rmdir(own.c_str());
    EnterCgroup(root);
  }
  for (const auto& [hierarchy, path] : OwnCgroups()) {
    const auto was = before.find(hierarchy);
    if (path == "/" || path == kOwnCgroup || was == before.end() || was->second != path) continue;
    return Error{EPERM, "the keeper can't leave the cgroup " + path + " of the hierarchy " + hierarchy +
                            ", and would end with it: the pod must be privileged, and the host's "
                            "/sys/fs/cgroup writable"};
  }
  return {};
}

std::vector<char*> PointersTo(std::vector<std::string>& arguments) {
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  return pointers;
}

bool HostHasSystemd() {
  struct stat status {};
  return stat(kSystemdBooted, &status) == 0 && S_ISDIR(status.st_mode) && access(kSystemdRun, X_OK) == 0;
}

// A scope, not a service: it runs what we start ourselves, with the descriptors that we pass on.
bool StartInScope(const std::vector<std::string>& command) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  char unit[64];
  std::snprintf(unit, sizeof(unit), "--unit=sluice-keeper-%lld-%09ld", static_cast<long long>(now.tv_sec),
                now.tv_nsec);
  // It leaves by itself when nothing is mounted, and else ignores the request to end: a host that shuts down
  // must not wait for it as long as for others.
  std::vector<std::string> arguments{kSystemdRun,
                                     "--scope",
                                     "--quiet",
                                     "--collect",
                                     unit,
                                     "--description=Sluice's keeper of mounted images",
                                     "--property=TimeoutStopSec=20s",
                                     "--"};
  arguments.insert(arguments.end(), command.begin(), command.end());
  const std::vector<char*> argv = PointersTo(arguments);
  const pid_t child = fork();
  if (child == 0) {
    execv(kSystemdRun, argv.data());
    _exit(1);
  }
  int status = 1;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

std::vector<std::string> CgroupRoots(const std::string& mountinfo) {
  std::vector<std::string> roots;
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point, word, type;
    fields >> id >> parent >> device >> root >> point;
    while (fields >> word && word != "-") {
    }
    fields >> type;
    if (root == "/" && (type == "cgroup" || type == "cgroup2")) roots.push_back(point);
  }
  return roots;
}

Result<std::string> HostProcess() {
  const auto seen = [](pid_t process) {
    char target[64];
    return readlink((FolderOf(process) + "/ns/mnt").c_str(), target, sizeof(target)) > 0;
  };
  if (getpid() != 1 && seen(1)) return FolderOf(1);
  pid_t farthest = 0;
  for (pid_t process = getppid(); process > 1; process = ParentOf(process)) {
    if (seen(process)) farthest = process;
  }
  if (farthest != 0) return FolderOf(farthest);
  return Error{
      EPERM, "no process of the host is to be seen: the pod needs hostPID: true and a privileged container"};
}

Outcome EnterHost() {
  const Result<std::string> process = HostProcess();
  if (!process.ok()) return process.error();
  for (const Namespace& space : kNamespaces) {
    const std::string path = process.value() + "/ns/" + space.name;
    const Descriptor host(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (host.valid() && setns(host.get(), space.type) == 0) continue;
    return ErrnoError("enter the host's namespace " + path + " (the pod's container must be privileged)");
  }
  return {};
}

Outcome BecomeOnHost(const std::string& program, std::vector<std::string> arguments) {
  if (access(program.c_str(), X_OK) != 0)
    return ErrnoError("run " + program + " on the host (is its file system mounted noexec?)");
  arguments.insert(arguments.begin(), program);
  // First, as systemd does not move what it starts in every hierarchy of the first version.
  if (Outcome left = LeaveCgroups(); !left.ok()) return left;
  if (HostHasSystemd()) {
    if (StartInScope(arguments)) return {};
    Log("the host's systemd makes no scope for the keeper; it stays in a cgroup of its own");
  }
  const std::vector<char*> argv = PointersTo(arguments);
  execv(program.c_str(), argv.data());
  return ErrnoError("run " + program + " on the host");
}

void LeaveOwnCgroups() {
  for (const std::string& root : CgroupRoots(ReadFile("/proc/self/mountinfo"))) {
    const std::string own = root + kOwnCgroup;
    // In a scope it is in none of them, or in some.
    std::istringstream members(ReadFile(own + "/cgroup.procs"));
    bool inside = false;
    for (long pid; members >> pid;) inside |= pid == getpid();
    if (!inside || EnterCgroup(root)) rmdir(own.c_str());
  }
}

}  // namespace sluice::keeper
