#include "node/image/image_tree.h"

#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "node/image/entry_checks.h"
#include "node/image/erofs_xattr.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr std::string_view kWhiteoutPrefix = ".wh.";
constexpr std::string_view kOpaqueWhiteout = ".wh..wh..opq";
constexpr std::string_view kReservedPrefix = ".wh..wh.";
constexpr uint16_t kImpliedPermissions = 0755;
constexpr uint16_t kSymlinkPermissions = 0777;

// The first of a path's names that is reserved; all of them if none is.
size_t FindReserved(const std::vector<std::string_view>& names) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (!names[i].starts_with(kReservedPrefix)) continue;
    if (i + 1 < names.size() || names[i] != kOpaqueWhiteout) return i;
  }
  return names.size();
}

}  // namespace

ImageTree::ImageTree(size_t names_max)
    : names_max_(names_max),
      root_(nodes_.MakeNode(EntryKind::kDirectory)),
      reserved_root_(nodes_.MakeNode(EntryKind::kDirectory)) {
  nodes_.node(root_).permissions = kImpliedPermissions;
}

void ImageTree::BeginLayer(Whiteouts whiteouts) {
  whiteouts_ = whiteouts;
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
  } else if (whiteouts_ == Whiteouts::kApply && place->name.starts_with(kWhiteoutPrefix)) {
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
    if (place.parent != NodeId::kNone) RemoveLowerIn(place.parent);
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
  const size_t reserved = whiteouts_ == Whiteouts::kApply ? FindReserved(names_) : names_.size();
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
                       : is_symlink ? CheckSymlinkTarget(entry.target)
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
  absl::StatusOr<NodeId> target = FindTarget(entry);
  if (!target.ok()) return target.status();
  if (const LinkId there = nodes_.Find(parent, name); there != LinkId::kNone) {
    // Making room for a link to itself would remove its target.
    if (nodes_.link(there).node == *target) {
      Touch(there);
      return absl::OkStatus();
    }
    Vacate(parent, name);
    // Again, as umoci and containerd do: what goes may be on the way to the target.
    target = FindTarget(entry);
    if (!target.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(target.status().message(), " once the link is made"));
    }
  }
  return AddLink(parent, name, *target);
}

absl::StatusOr<NodeId> ImageTree::FindTarget(const LayerEntry& entry) {
  absl::StatusOr<Place> place = Locate(entry.target, known_target_path_, known_target_parent_);
  if (!place.ok()) return place.status();
  NodeId target = root_;
  if (!place->name.empty()) {
    const LinkId found =
        place->parent == NodeId::kNone ? LinkId::kNone : nodes_.Find(place->parent, place->name);
    if (found == LinkId::kNone) {
      return absl::InvalidArgumentError(
          absl::StrCat("a hard link to ", p2p::Quoted(entry.target), ", which is not there"));
    }
    target = nodes_.link(found).node;
  }
  if (nodes_.node(target).kind != EntryKind::kDirectory) return target;
  return absl::InvalidArgumentError(
      absl::StrCat("a hard link to ", p2p::Quoted(entry.target), ", which is a directory"));
}

absl::Status ImageTree::AddLink(NodeId parent, std::string_view name, NodeId node) {
  if (nodes_.link_count() >= names_max_) {
    return absl::ResourceExhaustedError(absl::StrCat("the image has more than ", names_max_, " files"));
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

void ImageTree::RemoveLower(LinkId link) {
  ForgetPaths();
  if (nodes_.link(link).layer == layer_) {
    RemoveLowerIn(nodes_.link(link).node);
  } else {
    nodes_.Remove(link);
  }
}

// What this layer has put there stays, and so do the directories on the way to it.
void ImageTree::RemoveLowerIn(NodeId directory) {
  ForgetPaths();
  std::vector<NodeId> open = {directory};
  while (!open.empty()) {
    TreeNode& node = nodes_.node(open.back());
    open.pop_back();
    // Once a layer is enough: what comes later in it is its own. A layer may hide the same things a million
    // times.
    if (node.cleared_by == layer_) continue;
    node.cleared_by = layer_;
    for (LinkId id = node.first_child; id != LinkId::kNone;) {
      const TreeLink& link = nodes_.link(id);
      const LinkId next = link.next;
      if (link.layer == layer_) {
        open.push_back(link.node);
      } else {
        nodes_.Remove(id);
      }
      id = next;
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
