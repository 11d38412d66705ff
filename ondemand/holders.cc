#include "ondemand/holders.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <climits>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/mounting_process.h"
#include "ondemand/mount_point.h"

namespace sluice::ondemand {
namespace {

using keeper::Descriptor;

constexpr size_t kContainerIdLength = 64;
constexpr size_t kPodUidLength = 36;
constexpr size_t kFields = 10;
// What one search writes down at most; the rest is counted.
constexpr size_t kRecordsMax = 10'000;
constexpr char kLogFolder[] = "/var/log/containers";
constexpr char kEnd[] = "end";

bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isdigit(c) || (c >= 'a' && c <= 'f'); });
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t end = 0; (end = text.find(separator)) != std::string_view::npos; text.remove_prefix(end + 1))
    parts.push_back(text.substr(0, end));
  parts.push_back(text);
  return parts;
}

bool TakeSuffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

std::string ReadLink(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

void ForEachName(const std::string& folder, const std::function<void(const std::string&)>& visit) {
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(folder.c_str()), closedir);
  if (!entries) return;
  while (const dirent* const entry = readdir(entries.get())) {
    if (entry->d_name[0] != '.') visit(entry->d_name);
  }
}

// The names of pods, by the ids of their containers; read when the first is asked for.
class PodNames {
 public:
  void AddTo(PodContainer& where) {
    if (where.container_id.empty()) return;
    if (!std::exchange(read_, true)) Read();
    const auto found = by_id_.find(where.container_id);
    if (found == by_id_.end()) return;
    where.pod_namespace = found->second.pod_namespace;
    where.pod = found->second.pod;
    where.container = found->second.container;
  }

 private:
  void Read() {
    ForEachName(HostPath(kLogFolder), [this](const std::string& name) {
      if (std::optional<PodContainer> of = ContainerOfLog(name)) by_id_[of->container_id] = *std::move(of);
    });
  }

  bool read_ = false;
  std::map<std::string, PodContainer> by_id_;
};

// One search, in a process of its own: what it finds is written to a file, so that what was found before it
// had to be given up is known.
class Search {
 public:
  Search(const std::set<uint64_t>& devices, pid_t asker, int file)
      : devices_(devices), asker_(asker), file_(file) {}

  void Run() {
    std::vector<int> pids;
    ForEachName("/proc", [&](const std::string& name) {
      int pid = 0;
      if (absl::SimpleAtoi(name, &pid) && pid != asker_ && pid != getpid()) pids.push_back(pid);
    });
    std::sort(pids.begin(), pids.end());
    for (const int pid : pids) LookAtFiles(pid);
    // Last, as this may wait.
    for (const int pid : pids) LookAtMappings(pid);
    Write({kEnd, absl::StrCat(left_out_)});
  }

 private:
  void LookAtFiles(int pid) {
    const std::string folder = absl::StrCat("/proc/", pid, "/");
    for (const char* link : {"exe", "root", "cwd"}) LookAt(pid, folder + link);
    ForEachName(folder + "fd", [&](const std::string& name) { LookAt(pid, folder + "fd/" + name); });
  }

  // Without asking a file system that may not answer.
  void LookAt(int pid, const std::string& link) {
    struct statx found {};
    if (statx(AT_FDCWD, link.c_str(), AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE, &found) != 0) return;
    const uint64_t device = makedev(found.stx_dev_major, found.stx_dev_minor);
    if (devices_.contains(device)) Add(pid, device, ReadLink(link));
  }

  // Lines of proc_pid_maps(5): range, access, offset, device, inode, path.
  void LookAtMappings(int pid) {
    std::istringstream lines(ReadText(absl::StrCat("/proc/", pid, "/maps")));
    for (std::string line; std::getline(lines, line);) {
      unsigned device_major = 0, device_minor = 0;
      int path = 0;
      if (std::sscanf(line.c_str(), "%*s %*s %*s %x:%x %*s %n", &device_major, &device_minor, &path) != 2)
        continue;
      const uint64_t device = makedev(device_major, device_minor);
      if (path > 0 && devices_.contains(device)) Add(pid, device, line.substr(static_cast<size_t>(path)));
    }
  }

  void Add(int pid, uint64_t device, const std::string& path) {
    if (!seen_.insert({pid, device}).second) return;
    if (seen_.size() > kRecordsMax) {
      ++left_out_;
      return;
    }
    const std::string folder = absl::StrCat("/proc/", pid, "/");
    std::string process = ReadText(folder + "comm");
    while (process.ends_with('\n')) process.pop_back();
    PodContainer where = ContainerOfCgroup(ReadText(folder + "cgroup"));
    names_.AddTo(where);
    Write({absl::StrCat(pid), process, path, absl::StrCat(device), ReadLink(folder + "ns/mnt"),
           where.pod_namespace, where.pod, where.container, where.pod_uid, where.container_id});
  }

  // Fields that end with a zero, which none of them contains.
  void Write(const std::vector<std::string>& fields) const {
    std::string record;
    for (const std::string& field : fields) record.append(field.c_str()).push_back(0);
    [[maybe_unused]] const ssize_t written = write(file_, record.data(), record.size());
  }

  const std::set<uint64_t>& devices_;
  const pid_t asker_;
  const int file_;
  std::set<std::pair<int, uint64_t>> seen_;
  size_t left_out_ = 0;
  PodNames names_;
};

HolderSearch Parse(const std::string& text, size_t holders_max) {
  HolderSearch search;
  std::vector<std::string> fields;
  for (const std::string_view field : Split(text, 0)) fields.emplace_back(field);
  size_t at = 0;
  while (at + 1 < fields.size() && fields[at] != kEnd) {
    if (at + kFields >= fields.size()) return search;
    Holder holder;
    if (!absl::SimpleAtoi(fields[at], &holder.pid) || !absl::SimpleAtoi(fields[at + 3], &holder.device))
      return search;
    holder.process = fields[at + 1];
    holder.path = fields[at + 2];
    holder.mount_space = fields[at + 4];
    holder.where = {fields[at + 5], fields[at + 6], fields[at + 7], fields[at + 8], fields[at + 9]};
    search.holders.push_back(std::move(holder));
    at += kFields;
  }
  search.complete = at + 2 < fields.size() && absl::SimpleAtoi(fields[at + 1], &search.more);
  std::stable_sort(search.holders.begin(), search.holders.end(),
                   [](const Holder& a, const Holder& b) { return a.pid < b.pid; });
  if (search.holders.size() > holders_max) {
    search.more += search.holders.size() - holders_max;
    search.holders.resize(holders_max);
  }
  return search;
}

std::string Contents(int file) {
  std::string text;
  char part[65536];
  for (ssize_t length; (length = pread(file, part, sizeof(part), static_cast<off_t>(text.size()))) > 0;)
    text.append(part, static_cast<size_t>(length));
  return text;
}

}  // namespace

HolderSearch FindHolders(const std::set<uint64_t>& devices, size_t holders_max, Duration limit) {
  HolderSearch nothing;
  nothing.complete = devices.empty();
  if (devices.empty()) return nothing;
  const Descriptor file(memfd_create("sluice-holders", MFD_CLOEXEC));
  if (!file.valid()) return nothing;
  const int keep[] = {file.get()};
  const auto limit_ms = std::chrono::duration_cast<std::chrono::milliseconds>(limit).count();
  const pid_t asker = getpid();
  {
    keeper::MountingProcess process;
    (void)process.RunOutcome(
        [&]() -> keeper::Outcome {
          Search(devices, asker, file.get()).Run();
          return {};
        },
        {keep, {}, limit_ms});
  }
  return Parse(Contents(file.get()), holders_max);
}

PodContainer ContainerOfCgroup(std::string_view text) {
  PodContainer found;
  for (const std::string_view line : Split(text, '\n')) {
    for (std::string_view part : Split(line, '/')) {
      // systemd: kubepods-burstable-podUID.slice with _ for -, and cri-containerd-ID.scope.
      TakeSuffix(part, ".slice");
      TakeSuffix(part, ".scope");
      const size_t pod = part.rfind("pod");
      if (pod != std::string_view::npos && part.size() - pod - 3 == kPodUidLength) {
        std::string uid(part.substr(pod + 3));
        std::replace(uid.begin(), uid.end(), '_', '-');
        if (IsHex(uid.substr(0, 8)) && uid[8] == '-') found.pod_uid = std::move(uid);
      }
      if (part.size() < kContainerIdLength) continue;
      const std::string_view id = part.substr(part.size() - kContainerIdLength);
      const bool whole = part.size() == id.size() || part[part.size() - id.size() - 1] == '-' ||
                         part[part.size() - id.size() - 1] == ':';
      if (whole && IsHex(id)) found.container_id = id;
    }
  }
  return found;
}

// None of the names may have a _, and the container's may have a -.
std::optional<PodContainer> ContainerOfLog(std::string_view name) {
  if (!TakeSuffix(name, ".log") || name.size() <= kContainerIdLength) return std::nullopt;
  const std::string_view id = name.substr(name.size() - kContainerIdLength);
  name.remove_suffix(kContainerIdLength);
  if (!IsHex(id) || !TakeSuffix(name, "-")) return std::nullopt;
  const std::vector<std::string_view> parts = Split(name, '_');
  if (parts.size() != 3 || parts[0].empty() || parts[1].empty() || parts[2].empty()) return std::nullopt;
  return PodContainer{
      std::string(parts[1]), std::string(parts[0]), std::string(parts[2]), {}, std::string(id)};
}

}  // namespace sluice::ondemand
