#include "node/image/entry_checks.h"

#include "absl/strings/str_cat.h"
#include "node/image/erofs_xattr.h"
#include "node/image/tree_nodes.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr uint32_t kNoOwner = 0xffffffff;  // "leave it as it is" to chown(2), and nobody to the kernel
constexpr uint32_t kNanosecondsMax = 999'999'999;

}  // namespace

absl::Status CheckName(std::string_view name) {
  if (name.size() <= kNameBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("its name has ", name.size(), " bytes, ", kNameBytesMax, " at most can be"));
}

absl::Status CheckAttributes(const FileAttributes& attributes) {
  if (attributes.uid == kNoOwner || attributes.gid == kNoOwner) {
    return absl::InvalidArgumentError(absl::StrCat("an owner or group of ", kNoOwner, " means none"));
  }
  if (attributes.mtime_ns > kNanosecondsMax) {
    return absl::InvalidArgumentError("its time has a second's worth of nanoseconds or more");
  }
  return absl::OkStatus();
}

absl::Status CheckXattr(std::string_view name, std::string_view value) {
  if (name.empty() || name.size() > kXattrNameBytesMax || name.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("no extended attribute can have the name ", p2p::Quoted(name)));
  }
  if (value.size() > kXattrValueBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("its extended attribute ", p2p::Quoted(name), " has ",
                                                   value.size(), " bytes, EROFS can hold ",
                                                   kXattrValueBytesMax));
  }
  return absl::OkStatus();
}

// Why an attribute can't be kept; none if it can. What Linux refuses to set, an image must not bring: umoci
// fails there, containerd leaves it out with a warning.
std::optional<NoticeKind> WhyLeftOut(EntryKind kind, std::string_view name) {
  // An image that brings these could forge the redirects and whiteouts of an overlay that it lies under.
  if (name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.")) {
    return NoticeKind::kOverlayXattr;
  }
  if (!SplitXattrName(name).has_value()) return NoticeKind::kForeignXattr;
  const bool fits = name.starts_with("user.") ? kind == EntryKind::kRegular || kind == EntryKind::kDirectory
                    : name == "system.posix_acl_default" ? kind == EntryKind::kDirectory
                    : name == "system.posix_acl_access"  ? kind != EntryKind::kSymlink
                                                         : true;
  if (!fits) return NoticeKind::kMisplacedXattr;
  return std::nullopt;
}

absl::Status CheckDevice(const LayerEntry& entry) {
  if (entry.device_major <= kDeviceMajorMax && entry.device_minor <= kDeviceMinorMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("Linux has no device ", entry.device_major, ":",
                                                 entry.device_minor, ", ", kDeviceMajorMax, ":",
                                                 kDeviceMinorMax, " is the last"));
}

absl::Status CheckSymlinkTarget(std::string_view target) {
  if (target.empty()) return absl::InvalidArgumentError("a symbolic link to nothing");
  if (target.size() > kSymlinkBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("a symbolic link to ", target.size(), " bytes, Linux has ",
                                                   kSymlinkBytesMax, " at most"));
  }
  if (target.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError("a symbolic link to a name with a zero byte in it");
  }
  return absl::OkStatus();
}

}  // namespace sluice
