#include "ondemand/mount_point.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/mount_list.h"
#include "ondemand/keeper/mounting_process.h"
#include "ondemand/keeper/result.h"

namespace sluice::ondemand {

using keeper::Descriptor;

namespace {

constexpr char kSelf[] = "/proc/self";

// Set once, before anything reads it.
std::string& WhoseMounts() {
  static std::string* const process = new std::string(kSelf);
  return *process;
}

// Of a process of its own, with one thread: its root and working directory are then that namespace's.
keeper::Outcome EnterMounts() {
  if (WhoseMounts() == kSelf) return {};
  const std::string path = WhoseMounts() + "/ns/mnt";
  const Descriptor mounts(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (mounts.valid() && setns(mounts.get(), CLONE_NEWNS) == 0) return {};
  return keeper::ErrnoError("enter the mount namespace " + path);
}

// The kernel writes space, tab, newline and backslash as three octal digits.
std::string Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned char value = 0;
    const bool escape =
        text[i] == '\\' && i + 3 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 4, value, 8).ptr == text.data() + i + 4;
    out.push_back(escape ? static_cast<char>(value) : text[i]);
    if (escape) i += 3;
  }
  return out;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t end; (end = text.find(separator)) != std::string_view::npos; text.remove_prefix(end + 1)) {
    parts.push_back(text.substr(0, end));
  }
  parts.push_back(text);
  return parts;
}

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
bool ParseLine(std::string_view line, MountInfo* info) {
  const size_t dash = line.find(" - ");
  if (dash == std::string_view::npos) return false;
  const std::vector<std::string_view> left = Split(line.substr(0, dash), ' ');
  const std::vector<std::string_view> right = Split(line.substr(dash + 3), ' ');
  if (left.size() < 6 || right.size() < 2) return false;
  if (std::from_chars(left[0].data(), left[0].data() + left[0].size(), info->id).ec != std::errc())
    return false;
  info->device = std::string(left[2]);
  info->mount_point = Unescape(left[4]);
  info->type = std::string(right[0]);
  info->source = Unescape(right[1]);
  return true;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

constexpr int64_t kForeignPathMs =
    std::chrono::duration_cast<std::chrono::milliseconds>(kForeignPathTimeout).count();

absl::Status NoAnswer(const std::string& path) {
  return absl::DeadlineExceededError(absl::StrCat(
      path, ": a file system on the way does not answer (a dead network's, or a FUSE server that hangs)"));
}

enum class Contents { kAny, kNone };

// "." and ".." come first.
bool IsEmpty(int directory) {
  alignas(8) char entries[1024];
  ssize_t length = 0;
  while ((length = syscall(SYS_getdents64, directory, entries, sizeof(entries))) > 0) {
    for (ssize_t at = 0; at < length;) {
      const auto* const entry = reinterpret_cast<const dirent64*>(entries + at);
      if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) return false;
      at += entry->d_reclen;
    }
  }
  return true;
}

keeper::Result<Descriptor> OpenHere(const std::string& path, Contents contents) {
  if (keeper::Outcome entered = EnterMounts(); !entered.ok()) return entered.error();
  Descriptor directory(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return keeper::ErrnoError("");
  if (contents == Contents::kAny) return directory;
  const Descriptor listed(openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!listed.valid()) return keeper::ErrnoError("");
  if (!IsEmpty(listed.get())) return keeper::Error{ENOTEMPTY, ""};
  return directory;
}

absl::StatusOr<Descriptor> Open(const std::string& path, Contents contents) {
  keeper::Result<Descriptor> opened = keeper::MountingProcess().Run(
      [&path, contents] { return OpenHere(path, contents); }, {{}, {}, kForeignPathMs});
  if (opened.ok()) return std::move(opened.value());
  const std::string what = absl::StrCat("mount point ", path);
  switch (opened.error().code) {
    case ETIMEDOUT:
      return NoAnswer(what);
    case ENOENT:
      return absl::NotFoundError(absl::StrCat(what, " does not exist; create the directory first"));
    case ENOTDIR:
      return absl::FailedPreconditionError(absl::StrCat(what, " is not a directory"));
    case ENOTEMPTY:
      return absl::FailedPreconditionError(
          absl::StrCat(what, " is not empty: the mount would hide its files"));
    default:
      return absl::FailedPreconditionError(absl::StrCat(what, ": ", std::strerror(opened.error().code)));
  }
}

}  // namespace

void UseMountsOf(const std::string& process) {
  WhoseMounts() = process;
}

std::string HostPath(const std::string& path) {
  return WhoseMounts() == kSelf ? path : absl::StrCat(WhoseMounts(), "/root", path);
}

std::vector<MountInfo> ParseMountInfo(std::string_view text) {
  std::vector<MountInfo> mounts;
  for (std::string_view line : Split(text, '\n')) {
    MountInfo info;
    if (ParseLine(line, &info)) mounts.push_back(std::move(info));
  }
  return mounts;
}

absl::StatusOr<std::vector<MountInfo>> ReadMountInfo() {
  const std::string path = WhoseMounts() + "/mountinfo";
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::UnavailableError(absl::StrCat("read ", path, " failed: is /proc mounted?"));
  return ParseMountInfo(text.str());
}

absl::StatusOr<MountPoint> OpenMountPoint(const std::string& path) {
  if (path.empty() || path[0] != '/' || path.size() >= keeper::kMountPathMax) {
    return absl::InvalidArgumentError(absl::StrCat("mount point \"", path,
                                                   "\" must be an absolute path of at most ",
                                                   keeper::kMountPathMax - 1, " bytes"));
  }
  absl::StatusOr<Descriptor> directory = Open(path, Contents::kAny);
  if (!directory.ok()) return directory.status();
  MountPoint found{*std::move(directory), {}};
  found.path = PathOf(found.directory);
  absl::StatusOr<std::vector<MountInfo>> mounts = ReadMountInfo();
  if (!mounts.ok()) return mounts.status();
  for (const MountInfo& mount : *mounts) {
    if (mount.mount_point != found.path) continue;
    return absl::FailedPreconditionError(absl::StrCat("mount point ", path, " is busy: ", mount.type,
                                                      " is mounted there already; unmount it first"));
  }
  // What is mounted there would not be empty either.
  if (const absl::Status empty = Open(path, Contents::kNone).status(); !empty.ok()) return empty;
  return found;
}

absl::Status CheckMountPoint(const std::string& path) {
  return OpenMountPoint(path).status();
}

absl::StatusOr<Descriptor> OpenForeignDirectory(const std::string& path) {
  return Open(path, Contents::kAny);
}

std::string PathOf(const Descriptor& file) {
  std::error_code error;
  const auto link = std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", file.get()), error);
  return error ? std::string() : link.string();
}

MountWatch::MountWatch() : file_(open((WhoseMounts() + "/mountinfo").c_str(), O_RDONLY | O_CLOEXEC)) {}

bool MountWatch::Changed() {
  pollfd change{file_.get(), POLLPRI, 0};
  const bool same = poll(&change, 1, 0) == 0;
  return !std::exchange(asked_, true) || !same;
}

std::vector<ForeignMount> FindForeignMounts(uint64_t device) {
  std::error_code error;
  std::set<std::string> seen{std::filesystem::read_symlink(WhoseMounts() + "/ns/mnt", error).string()};
  std::vector<ForeignMount> found;
  std::filesystem::directory_iterator processes("/proc", error);
  for (; !error && processes != std::filesystem::directory_iterator(); processes.increment(error)) {
    const std::string folder = processes->path().string();
    int pid = 0;
    if (!absl::SimpleAtoi(processes->path().filename().string(), &pid)) continue;
    std::error_code gone;
    const std::string name_space = std::filesystem::read_symlink(folder + "/ns/mnt", gone).string();
    if (gone || !seen.insert(name_space).second) continue;
    for (const keeper::MountLine& line : keeper::ParseMountLines(ReadAll(folder + "/mountinfo"))) {
      if (line.device != device) continue;
      std::string name = ReadAll(folder + "/comm");
      while (name.ends_with('\n')) name.pop_back();
      found.push_back({line.point, pid, std::move(name)});
      break;
    }
  }
  return found;
}

absl::Status DetachForeignMount(const std::string& path) {
  const auto detach = [&path]() -> keeper::Outcome {
    if (keeper::Outcome entered = EnterMounts(); !entered.ok()) return entered;
    if (umount2(path.c_str(), MNT_DETACH) == 0) return {};
    return keeper::ErrnoError("unmount " + path);
  };
  const keeper::Outcome detached = keeper::MountingProcess().RunOutcome(detach, {{}, {}, kForeignPathMs});
  if (detached.ok()) return absl::OkStatus();
  return detached.error().code == ETIMEDOUT ? NoAnswer(path) : absl::UnavailableError(detached.error().text);
}

}  // namespace sluice::ondemand
