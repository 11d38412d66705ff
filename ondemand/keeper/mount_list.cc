#include "ondemand/keeper/mount_list.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

namespace sluice::keeper {
namespace {

bool IsOctal(char c) {
  return c >= '0' && c <= '7';
}

// The kernel writes space, tab, newline and backslash as three octal digits.
std::string Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '\\' && i + 3 < text.size() && IsOctal(text[i + 1]) &&
                        IsOctal(text[i + 2]) && IsOctal(text[i + 3]);
    if (!escape) {
      out.push_back(text[i]);
      continue;
    }
    out.push_back(
        static_cast<char>((text[i + 1] - '0') << 6 | (text[i + 2] - '0') << 3 | (text[i + 3] - '0')));
    i += 3;
  }
  return out;
}

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
std::optional<MountLine> ParseLine(const std::string& line) {
  unsigned long long id = 0;
  unsigned long long parent = 0;
  unsigned major_number = 0;
  unsigned minor_number = 0;
  int root_begin = 0;
  if (std::sscanf(line.c_str(), "%llu %llu %u:%u %n", &id, &parent, &major_number, &minor_number,
                  &root_begin) != 4 ||
      root_begin == 0) {
    return std::nullopt;
  }
  const size_t root_end = line.find(' ', static_cast<size_t>(root_begin));
  if (root_end == std::string::npos) return std::nullopt;
  const size_t point_end = line.find(' ', root_end + 1);
  if (point_end == std::string::npos) return std::nullopt;
  const std::string_view point = std::string_view(line).substr(root_end + 1, point_end - root_end - 1);
  return MountLine{id, parent, makedev(major_number, minor_number), Unescape(point)};
}

// Whether the path is that directory or leads through it.
bool LeadsThrough(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
}

const MountLine* ById(const std::vector<MountLine>& lines, uint64_t id) {
  const auto found =
      std::find_if(lines.begin(), lines.end(), [id](const auto& line) { return line.id == id; });
  return found == lines.end() ? nullptr : &*found;
}

}  // namespace

std::vector<MountLine> ParseMountLines(std::string_view text) {
  std::vector<MountLine> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (std::optional<MountLine> line = ParseLine(std::string(text.substr(0, end))))
      lines.push_back(*std::move(line));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

bool IsHidden(const std::vector<MountLine>& lines, const MountLine& line) {
  // Over its own root.
  for (const MountLine& other : lines) {
    if (other.parent == line.id && other.id != line.id && other.point == line.point) return true;
  }
  // Beside it, on a file system that leads to it.
  const MountLine* below = &line;
  for (size_t depth = 0; depth < lines.size(); ++depth) {
    const MountLine* const parent = ById(lines, below->parent);
    if (parent == nullptr || parent == below) return false;
    for (const MountLine& other : lines) {
      const bool beside = other.parent == parent->id && &other != parent && other.point != below->point;
      if (beside && LeadsThrough(below->point, other.point)) return true;
    }
    below = parent;
  }
  return false;
}

MountList::MountList() : file_(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC)) {}

const std::vector<MountLine>& MountList::Lines() {
  pollfd changed{file_.get(), POLLPRI, 0};
  const bool same = read_ && poll(&changed, 1, 0) == 0;
  if (same) return lines_;
  std::string text;
  char part[16384];
  off_t offset = 0;
  ssize_t length = 0;
  while ((length = pread(file_.get(), part, sizeof(part), offset)) > 0) {
    text.append(part, static_cast<size_t>(length));
    offset += length;
  }
  if (length < 0 || text.empty()) return lines_;
  lines_ = ParseMountLines(text);
  read_ = true;
  return lines_;
}

const MountLine* MountList::Find(uint64_t id, uint64_t device) {
  const std::vector<MountLine>& lines = Lines();
  const auto found = std::find_if(lines.begin(), lines.end(), [id, device](const MountLine& line) {
    return line.id == id && line.device == device;
  });
  return found == lines.end() ? nullptr : &*found;
}

}  // namespace sluice::keeper
