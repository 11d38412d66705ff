#include "ondemand/keeper_on_host.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/host.h"

namespace sluice::ondemand {
namespace {

constexpr char kPrograms[] = "/bin";
constexpr char kKeeper[] = "/sluice-keeper";

absl::Status Failed(const std::string& what, int error = errno) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
}

absl::Status CheckFolder(const std::string& path, const std::string& host) {
  struct stat here {};
  struct stat there {};
  if (stat(path.c_str(), &here) != 0) return Failed(absl::StrCat("look at ", path));
  const std::string on_host = absl::StrCat(host, "/root", path);
  if (stat(on_host.c_str(), &there) == 0 && here.st_dev == there.st_dev && here.st_ino == there.st_ino)
    return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("ondemand.keeperOnHost: ", path,
                                                    " is not the host's folder of that path, as ", host,
                                                    " sees it: mount the host's there, by hostPath"));
}

absl::StatusOr<std::string> Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.good() && !file.eof()) return Failed(absl::StrCat("read ", path));
  return bytes;
}

// Written to the disk before it has its name: a host that loses power finds the old one or the new one.
absl::Status WriteProgram(const std::string& path, const std::string& bytes) {
  const std::string fresh = absl::StrCat(path, ".new");
  keeper::Descriptor file(open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0755));
  if (!file.valid()) return Failed(absl::StrCat("make ", fresh));
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t written = write(file.get(), bytes.data() + done, bytes.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Failed(absl::StrCat("write ", fresh));
    done += static_cast<size_t>(written);
  }
  if (fsync(file.get()) != 0) return Failed(absl::StrCat("write ", fresh));
  file.reset();  // what is open for writing can't be run
  if (rename(fresh.c_str(), path.c_str()) != 0) return Failed(absl::StrCat("rename ", fresh));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> FindHost(const std::string& state_dir, const std::string& runtime_dir) {
  const keeper::Result<std::string> host = keeper::HostProcess();
  if (!host.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("ondemand.keeperOnHost: the keeper would end with this pod: ", host.error().text,
                     "; or set ondemand.keeperOnHost: false"));
  }
  if (absl::Status same = CheckFolder(state_dir, host.value()); !same.ok()) return same;
  if (absl::Status same = CheckFolder(runtime_dir, host.value()); !same.ok()) return same;
  return host.value();
}

absl::StatusOr<std::string> PlaceKeeperOnHost(const std::string& keeper_path, const std::string& state_dir) {
  const absl::StatusOr<std::string> wanted = Contents(keeper_path);
  if (!wanted.ok()) return wanted.status();
  if (wanted->empty()) return Failed(absl::StrCat("start the keeper ", keeper_path), ENOENT);
  const std::string folder = absl::StrCat(state_dir, kPrograms);
  if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) return Failed(absl::StrCat("make ", folder));
  std::string path = absl::StrCat(folder, kKeeper);
  const absl::StatusOr<std::string> there = Contents(path);
  if (there.ok() && *there == *wanted && access(path.c_str(), X_OK) == 0) return path;
  if (absl::Status written = WriteProgram(path, *wanted); !written.ok()) return written;
  return path;
}

}  // namespace sluice::ondemand
