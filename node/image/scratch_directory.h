#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "node/image/unique_fd.h"

namespace sluice {

// A directory of our own for files on their way, in $TMPDIR (else /var/tmp, since images are large). It is
// gone when this is destroyed and also when the process dies of whatever signal: a shell in a session of its
// own waits on a pipe for that, and removes it.
class ScratchDirectory {
 public:
  // Errors: NotFound, PermissionDenied, ResourceExhausted, Unavailable; the message names the directory.
  static absl::StatusOr<ScratchDirectory> Make();

  ScratchDirectory(ScratchDirectory&& other) noexcept = default;
  ScratchDirectory& operator=(ScratchDirectory&&) = delete;
  // Waits until it is removed.
  ~ScratchDirectory();

  const std::string& path() const { return path_; }
  std::string PathOf(const std::string& name) const { return path_ + "/" + name; }

 private:
  ScratchDirectory(std::string path, pid_t remover, UniqueFd lifeline);

  std::string path_;
  pid_t remover_;
  UniqueFd lifeline_;  // closed with the process
};

}  // namespace sluice
