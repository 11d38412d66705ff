#include "ondemand/mount_point.h"

#include <sys/stat.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "ondemand/keeper/journal.h"

namespace sluice::ondemand {
namespace {

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

}  // namespace

std::vector<MountInfo> ParseMountInfo(std::string_view text) {
  std::vector<MountInfo> mounts;
  for (std::string_view line : Split(text, '\n')) {
    MountInfo info;
    if (ParseLine(line, &info)) mounts.push_back(std::move(info));
  }
  return mounts;
}

absl::StatusOr<std::vector<MountInfo>> ReadMountInfo() {
  std::ifstream file("/proc/self/mountinfo");
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::UnavailableError("read /proc/self/mountinfo failed: is /proc mounted?");
  return ParseMountInfo(text.str());
}

absl::Status CheckMountPoint(const std::string& path) {
  if (path.empty() || path[0] != '/' || path.size() >= keeper::kMountPathMax) {
    return absl::InvalidArgumentError(absl::StrCat("mount point \"", path,
                                                   "\" must be an absolute path of at most ",
                                                   keeper::kMountPathMax - 1, " bytes"));
  }
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::canonical(path, error);
  if (error == std::errc::no_such_file_or_directory) {
    return absl::NotFoundError(
        absl::StrCat("mount point ", path, " does not exist; create the directory first"));
  }
  if (error) return absl::FailedPreconditionError(absl::StrCat("mount point ", path, ": ", error.message()));
  if (!std::filesystem::is_directory(canonical, error)) {
    return absl::FailedPreconditionError(absl::StrCat("mount point ", path, " is not a directory"));
  }
  absl::StatusOr<std::vector<MountInfo>> mounts = ReadMountInfo();
  if (!mounts.ok()) return mounts.status();
  for (const MountInfo& mount : *mounts) {
    if (mount.mount_point != canonical) continue;
    return absl::FailedPreconditionError(absl::StrCat("mount point ", path, " is busy: ", mount.type,
                                                      " is mounted there already; unmount it first"));
  }
  const bool empty = std::filesystem::is_empty(canonical, error);
  if (error) return absl::FailedPreconditionError(absl::StrCat("mount point ", path, ": ", error.message()));
  if (!empty) {
    return absl::FailedPreconditionError(
        absl::StrCat("mount point ", path, " is not empty: the mount would hide its files"));
  }
  return absl::OkStatus();
}

}  // namespace sluice::ondemand
