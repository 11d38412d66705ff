#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ondemand/keeper/descriptor.h"

namespace sluice::keeper {

// A line of /proc/self/mountinfo (proc_pid_mountinfo(5)), escapes undone.
struct MountLine {
  uint64_t id = 0;
  uint64_t parent = 0;
  uint64_t device = 0;  // as st_dev
  std::string point;
};

// Lines that are not well-formed are left out.
std::vector<MountLine> ParseMountLines(std::string_view text);

// Whether something else is mounted over it, or over a directory that leads to it. `line` is one of `lines`.
bool IsHidden(const std::vector<MountLine>& lines, const MountLine& line);

// The mounts of this process's namespace as the kernel lists them: no path is walked, which might lead
// through a file system that does not answer. Read again only after one has changed. One thread.
class MountList {
 public:
  MountList();

  // As they are now; as they were last if they can't be read.
  const std::vector<MountLine>& Lines();
  // nullptr if there is none.
  const MountLine* Find(uint64_t id, uint64_t device);

 private:
  const Descriptor file_;
  std::vector<MountLine> lines_;
  bool read_ = false;
};

}  // namespace sluice::keeper
