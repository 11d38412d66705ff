#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/executor.h"
#include "ondemand/keeper/descriptor.h"

namespace sluice::ondemand {

// From now on all of this is about the mounts, and the paths, that a process sees, named by its folder in
// /proc: the keeper's, where that has another mount namespace than this process. To be called before anything
// else of this, and before other threads are started.
void UseMountsOf(const std::string& process);

// The path of a file there, as this process may open it.
std::string HostPath(const std::string& path);

// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)), escapes undone.
struct MountInfo {
  int id = 0;
  std::string device;  // "major:minor"
  std::string mount_point;
  std::string type;
  std::string source;
};

// Lines that are not well-formed are left out.
std::vector<MountInfo> ParseMountInfo(std::string_view text);

// This process's mounts, or those of UseMountsOf. Errors: Unavailable.
absl::StatusOr<std::vector<MountInfo>> ReadMountInfo();

// Tells whether any mount of this process's namespace was made, moved or taken down since it was asked last.
// One thread at a time.
class MountWatch {
 public:
  MountWatch();
  // True at first, and where the kernel does not say.
  bool Changed();

 private:
  const keeper::Descriptor file_;
  bool asked_ = false;
};

// A mount in another mount namespace.
struct ForeignMount {
  std::string mount_point;
  int pid = 0;          // of a process that sees it
  std::string process;  // its name
};
// Mounts of the file system (st_dev) in other namespaces than where images are mounted, one for each
// namespace.
std::vector<ForeignMount> FindForeignMounts(uint64_t device);

// How long the way along a path may take, which may lead through a file system that does not answer: of a
// dead network server, or of a FUSE server that hangs. What waits longer is left behind, in a process of its
// own.
inline constexpr Duration kForeignPathTimeout = std::chrono::seconds(3);

// A directory that an image can be mounted on.
struct MountPoint {
  keeper::Descriptor directory;  // O_PATH
  std::string path;              // as the kernel has it: absolute, without links
};

// Errors: InvalidArgument (not absolute, or longer than 1,023 bytes), NotFound, FailedPrecondition (not a
// directory; not empty; something is mounted there already), DeadlineExceeded.
absl::StatusOr<MountPoint> OpenMountPoint(const std::string& path);
// Whether there is one.
absl::Status CheckMountPoint(const std::string& path);

// The directory that is there, whatever is mounted on it. Errors: NotFound, FailedPrecondition (not a
// directory, or it can't be opened), DeadlineExceeded.
absl::StatusOr<keeper::Descriptor> OpenForeignDirectory(const std::string& path);
// The path of an open file, as the kernel has it.
std::string PathOf(const keeper::Descriptor& file);

// Takes down what is mounted there, for whoever uses it as soon as he does not any more. Errors: Unavailable,
// DeadlineExceeded (it may be taken down later).
absl::Status DetachForeignMount(const std::string& path);

}  // namespace sluice::ondemand
