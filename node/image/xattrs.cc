#include "node/image/xattrs.h"

#include <linux/limits.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice {

absl::StatusOr<std::map<std::string, std::string>> ReadXattrs(const std::string& path, uint64_t bytes_max) {
  std::map<std::string, std::string> xattrs;
  char names[XATTR_LIST_MAX];
  const ssize_t size = llistxattr(path.c_str(), names, sizeof(names));
  if (size < 0 && (errno == ENOTSUP || errno == ENODATA)) return xattrs;
  if (size < 0) return absl::ErrnoToStatus(errno, "its extended attributes can't be listed");
  uint64_t bytes = 0;
  for (std::string_view rest(names, static_cast<size_t>(size)); !rest.empty();) {
    const std::string name(rest.substr(0, rest.find('\0')));
    rest.remove_prefix(std::min(name.size() + 1, rest.size()));
    char value[XATTR_SIZE_MAX];
    const ssize_t length = lgetxattr(path.c_str(), name.c_str(), value, sizeof(value));
    if (length < 0) {
      return absl::ErrnoToStatus(
          errno, absl::StrCat("its extended attribute ", p2p::Quoted(name), " can't be read"));
    }
    bytes += name.size() + static_cast<size_t>(length);
    if (bytes > bytes_max) {
      return absl::ResourceExhaustedError(
          absl::StrCat("its extended attributes have more than ", bytes_max, " bytes"));
    }
    xattrs[name] = std::string(value, static_cast<size_t>(length));
  }
  return xattrs;
}

}  // namespace sluice
