#include "node/image/image_tree.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "node/image/erofs_xattr.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr std::string_view kWhiteoutPrefix = ".wh.";
constexpr std::string_view kOpaqueWhiteout = ".wh..wh..opq";
constexpr std::string_view kReservedPrefix = ".wh..wh.";
constexpr uint16_t kImpliedPermissions = 0755;
constexpr uint16_t kSymlinkPermissions = 0777;
constexpr uint32_t kNoOwner = 0xffffffff;  // "leave it as it is" to chown(2), and nobody to the kernel
constexpr uint32_t kNanosecondsMax = 999'999'999;

// The first of a path's names that is reserved; all of them if none is.
size_t FindReserved(const std::vector<std::string_view>& names) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (!names[i].starts_with(kReservedPrefix)) continue;
    if (i + 1 < names.size() || names[i] != kOpaqueWhiteout) return i;
  }
  return names.size();
}

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

absl::Status CheckTarget(std::string_view target) {
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

}  // namespace

ImageTree::ImageTree()
    : root_(nodes_.MakeNode(EntryKind::kDirectory)), reserved_root_(nodes_.MakeNode(EntryKind::kDirectory)) {
  nodes_.node(root_).permissions = kImpliedPermissions;
}

void ImageTree::BeginLayer() {
  DropReserved();
  ForgetPaths();
  ++layer_;
}

void ImageTree::Finish() {
  DropReserved();
  std::vector<NodeId> open = {root_};
  while (!open.empty()) {
    const NodeId directory = open.back();
    open.pop_back();
    nodes_.SortChildren(directory);
    for (LinkId id = nodes_.node(directory).first_child; id != LinkId::kNone; id = nodes_.link(id).next) {
      if (nodes_.node(nodes_.link(id).node).kind == EntryKind::kDirectory) {
        open.push_back(nodes_.link(id).node);
      }
    }
  }
}

absl::Status ImageTree::Apply(const LayerEntry& entry, ContentId content) {
  absl::Status applied = ApplyEntry(entry, content);
  if (applied.ok()) return applied;
  return absl::Status(applied.code(),
                      absl::StrCat("layer entry ", p2p::Quoted(entry.path), ": ", applied.message()));
}

absl::Status ImageTree::ApplyEntry(const LayerEntry& entry, ContentId content) {
  absl::StatusOr<Place> place = Locate(entry.path, known_path_, known_parent_);
  if (!place.ok()) return place.status();
  if (place->name.empty()) return ApplyToRoot(entry);
  if (place->reserved) {
    notices_.Add(NoticeKind::kReservedName, entry.path, {});
    if (entry.kind == EntryKind::kHardLink) return absl::OkStatus();
  } else if (place->name.starts_with(kWhiteoutPrefix)) {
    return ApplyWhiteout(*place);
  }
  if (absl::Status valid = CheckName(place->name); !valid.ok()) return valid;
  absl::StatusOr<NodeId> parent = MakeParent(*place);
  if (!parent.ok()) return parent.status();
  switch (entry.kind) {
    case EntryKind::kDirectory:
      return MakeDirectory(entry, *parent, place->name);
    case EntryKind::kHardLink:
      return MakeHardLink(entry, *parent, place->name);
    default:
      return MakeFile(entry, content, *parent, place->name);
  }
}

absl::Status ImageTree::ApplyToRoot(const LayerEntry& entry) {
  if (entry.kind != EntryKind::kDirectory) {
    return absl::InvalidArgumentError("the root of an image must be a directory");
  }
  return SetAttributes(entry, root_);
}

absl::Status ImageTree::ApplyWhiteout(const Place& place) {
  if (place.name == kOpaqueWhiteout) {
    if (place.parent == NodeId::kNone) return absl::OkStatus();
    for (LinkId id = nodes_.node(place.parent).first_child; id != LinkId::kNone;) {
      const LinkId next = nodes_.link(id).next;
      RemoveLower(id);
      id = next;
    }
    return absl::OkStatus();
  }
  const std::string_view hidden = place.name.substr(kWhiteoutPrefix.size());
  if (hidden.empty() || hidden == "." || hidden == "..") {
    return absl::InvalidArgumentError("a whiteout that names no file");
  }
  if (absl::Status valid = CheckName(hidden); !valid.ok()) return valid;
  if (place.parent == NodeId::kNone) return absl::OkStatus();
  if (const LinkId lower = nodes_.Find(place.parent, hidden); lower != LinkId::kNone) RemoveLower(lower);
  return absl::OkStatus();
}

absl::StatusOr<ImageTree::Place> ImageTree::Locate(std::string_view path, std::string& known_path,
                                                   NodeId& known_parent) {
  if (path.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(p2p::Quoted(path), " has a zero byte in it"));
  }
  const std::string_view text = path.substr(0, path.find_last_not_of('/') + 1);
  const size_t slash = text.rfind('/');
  const std::string_view parent_text = slash == std::string_view::npos ? "" : text.substr(0, slash);
  const std::string_view name = slash == std::string_view::npos ? text : text.substr(slash + 1);
  const bool is_name = !name.empty() && name != "." && name != "..";
  const bool is_ordinary = is_name && (!name.starts_with(kReservedPrefix) || name == kOpaqueWhiteout);
  if (is_ordinary && known_parent != NodeId::kNone && parent_text == known_path) {
    return Place{known_parent, name};
  }

  CleanPath(path, names_);
  if (names_.empty()) return Place{root_, {}};
  Place place{.name = names_.back()};
  const size_t reserved = FindReserved(names_);
  place.reserved = reserved < names_.size();
  names_.pop_back();
  if (place.reserved) names_.erase(names_.begin(), names_.begin() + static_cast<ptrdiff_t>(reserved));
  const NodeId root = place.reserved ? reserved_root_ : root_;
  if (absl::Status resolved = path_.Resolve(nodes_, root, names_); !resolved.ok()) return resolved;
  place.parent = path_.end();
  if (is_ordinary && !place.reserved && place.parent != NodeId::kNone &&
      nodes_.node(place.parent).kind == EntryKind::kDirectory) {
    known_path = parent_text;
    known_parent = place.parent;
  }
  return place;
}

// REQUIRES: `place` is the last that was located
absl::StatusOr<NodeId> ImageTree::MakeParent(const Place& place) {
  NodeId parent = place.parent;
  if (parent == NodeId::kNone) {
    const std::vector<TreePath::Step>& steps = path_.steps();
    size_t missing = 0;
    while (steps[missing].node != NodeId::kNone) ++missing;
    parent = steps[missing - 1].node;
    // Below what is no directory nothing is made, since it would be lost.
    for (; missing < steps.size() && nodes_.node(parent).kind == EntryKind::kDirectory; ++missing) {
      const NodeId made = nodes_.MakeNode(EntryKind::kDirectory);
      nodes_.node(made).permissions = kImpliedPermissions;
      if (absl::Status added = AddLink(parent, steps[missing].name, made); !added.ok()) return added;
      parent = made;
    }
  }
  if (nodes_.node(parent).kind == EntryKind::kDirectory) return parent;
  return absl::FailedPreconditionError("its parent is no directory");
}

absl::Status ImageTree::MakeDirectory(const LayerEntry& entry, NodeId parent, std::string_view name) {
  const LinkId there = nodes_.Find(parent, name);
  if (there != LinkId::kNone && nodes_.node(nodes_.link(there).node).kind == EntryKind::kDirectory) {
    Touch(there);
    return SetAttributes(entry, nodes_.link(there).node);
  }
  return MakeFile(entry, ContentId(), parent, name);
}

absl::Status ImageTree::MakeFile(const LayerEntry& entry, ContentId content, NodeId parent,
                                 std::string_view name) {
  const bool is_device = entry.kind == EntryKind::kCharDevice || entry.kind == EntryKind::kBlockDevice;
  const bool is_symlink = entry.kind == EntryKind::kSymlink;
  absl::Status valid = is_device    ? CheckDevice(entry)
                       : is_symlink ? CheckTarget(entry.target)
                                    : absl::OkStatus();
  if (!valid.ok()) return valid;
  Vacate(parent, name);
  const NodeId id = nodes_.MakeNode(entry.kind);
  TreeNode& node = nodes_.node(id);
  if (entry.kind == EntryKind::kRegular) node.content = content;
  if (is_symlink) node.target = nodes_.KeepText(entry.target);
  if (is_device) {
    node.device_major = entry.device_major;
    node.device_minor = entry.device_minor;
  }
  if (absl::Status set = SetAttributes(entry, id); !set.ok()) return set;
  return AddLink(parent, name, id);
}

absl::Status ImageTree::MakeHardLink(const LayerEntry& entry, NodeId parent, std::string_view name) {
  absl::StatusOr<Place> place = Locate(entry.target, known_target_path_, known_target_parent_);
  if (!place.ok()) return place.status();
  const LinkId found =
      place->parent == NodeId::kNone ? LinkId::kNone : nodes_.Find(place->parent, place->name);
  if (found == LinkId::kNone && !place->name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a hard link to ", p2p::Quoted(entry.target), ", which is not there"));
  }
  const NodeId target = place->name.empty() ? root_ : nodes_.link(found).node;
  if (nodes_.node(target).kind == EntryKind::kDirectory) {
    return absl::InvalidArgumentError(
        absl::StrCat("a hard link to ", p2p::Quoted(entry.target), ", which is a directory"));
  }
  // Making room for a link to itself would remove its target.
  if (const LinkId there = nodes_.Find(parent, name);
      there != LinkId::kNone && nodes_.link(there).node == target) {
    Touch(there);
    return absl::OkStatus();
  }
  // Held, since the target may lie in a directory that the link replaces.
  ++nodes_.node(target).link_count;
  Vacate(parent, name);
  if (--nodes_.node(target).link_count == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a hard link to ", p2p::Quoted(entry.target), ", which it replaces"));
  }
  return AddLink(parent, name, target);
}

absl::Status ImageTree::AddLink(NodeId parent, std::string_view name, NodeId node) {
  if (nodes_.link_count() >= kTreeNamesMax) {
    return absl::ResourceExhaustedError(absl::StrCat("the image has more than ", kTreeNamesMax, " files"));
  }
  Touch(nodes_.AddLink(parent, name, node));
  return absl::OkStatus();
}

void ImageTree::Vacate(NodeId parent, std::string_view name) {
  const LinkId there = nodes_.Find(parent, name);
  if (there == LinkId::kNone) return;
  const EntryKind kind = nodes_.node(nodes_.link(there).node).kind;
  if (kind == EntryKind::kDirectory || kind == EntryKind::kSymlink) ForgetPaths();
  nodes_.Remove(there);
}

// Up to the first that is, since what is above that is as well.
void ImageTree::Touch(LinkId link) {
  while (link != LinkId::kNone && nodes_.link(link).layer != layer_) {
    nodes_.link(link).layer = layer_;
    link = nodes_.node(nodes_.link(link).parent).link;
  }
}

// What this layer has put there stays, and so do the directories on the way to it.
void ImageTree::RemoveLower(LinkId link) {
  ForgetPaths();
  std::vector<LinkId> open = {link};
  while (!open.empty()) {
    const LinkId top = open.back();
    open.pop_back();
    if (nodes_.link(top).layer != layer_) {
      nodes_.Remove(top);
      continue;
    }
    const NodeId node = nodes_.link(top).node;
    for (LinkId id = nodes_.node(node).first_child; id != LinkId::kNone; id = nodes_.link(id).next) {
      open.push_back(id);
    }
  }
}

absl::Status ImageTree::SetAttributes(const LayerEntry& entry, NodeId id) {
  const FileAttributes& attributes = entry.attributes;
  if (absl::Status valid = CheckAttributes(attributes); !valid.ok()) return valid;
  absl::StatusOr<XattrSetId> xattrs = KeepXattrs(entry);
  if (!xattrs.ok()) return xattrs.status();
  TreeNode& node = nodes_.node(id);
  node.uid = attributes.uid;
  node.gid = attributes.gid;
  node.permissions = entry.kind == EntryKind::kSymlink ? kSymlinkPermissions : attributes.permissions & 07777;
  node.mtime_s = attributes.mtime_s;
  node.mtime_ns = attributes.mtime_ns;
  node.xattrs = *xattrs;
  return absl::OkStatus();
}

absl::StatusOr<XattrSetId> ImageTree::KeepXattrs(const LayerEntry& entry) {
  if (entry.attributes.xattrs.empty()) return XattrSetId::kEmpty;
  std::map<std::string, std::string> kept;
  size_t bytes = 0;
  for (const auto& [name, value] : entry.attributes.xattrs) {
    if (absl::Status valid = CheckXattr(name, value); !valid.ok()) return valid;
    if (const std::optional<NoticeKind> why = WhyLeftOut(entry.kind, name); why.has_value()) {
      notices_.Add(*why, entry.path, name);
      continue;
    }
    bytes += ErofsXattrBytes(*SplitXattrName(name), value.size());
    kept.emplace_hint(kept.end(), name, value);
  }
  if (bytes > kXattrSetBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("its extended attributes have ", bytes,
                                                   " bytes together, EROFS can hold ", kXattrSetBytesMax));
  }
  return xattrs_.Add(kept);
}

void ImageTree::DropReserved() {
  while (nodes_.node(reserved_root_).first_child != LinkId::kNone) {
    nodes_.Remove(nodes_.node(reserved_root_).first_child);
  }
}

void ImageTree::ForgetPaths() {
  known_parent_ = NodeId::kNone;
  known_target_parent_ = NodeId::kNone;
}

}  // namespace sluice
