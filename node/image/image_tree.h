#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/image/content_table.h"
#include "node/image/layer_reader.h"
#include "node/image/notices.h"
#include "node/image/tree_nodes.h"
#include "node/image/tree_path.h"
#include "node/image/xattr_pool.h"

namespace sluice {

inline constexpr size_t kTreeNamesMax = 16 << 20;  // of files of all kinds, at once

// What a container sees of an image's layers: their entries, applied lowest layer first and each layer in its
// order. A function of the entries alone. No I/O.
//
// Source: OCI image specification, layer.md. Where it leaves a choice: as umoci and containerd where they
// agree. A whiteout touches only what lower layers left, wherever it stands in its layer, and makes nothing.
// Parents that no entry names are there with mode 0755, owner 0:0, time 0. The path of an entry is cleaned by
// text (".." can't leave the root), then symbolic links on the way are followed within the root, and what is
// missing is made, also behind a link that leads nowhere. An entry replaces what is at its path; a directory
// over a directory keeps what is in it and takes the new attributes. A hard link has its target's attributes.
// Entries under reserved names (".wh..wh.plnk") are no part of the tree, but may be linked to by their layer.
//
// One thread at a time; not movable.
class ImageTree {
 public:
  // What names that begin with ".wh." mean in a layer: whiteouts, as in archives; or nothing special, as in a
  // directory, where they are files like others.
  enum class Whiteouts { kApply, kKeep };

  explicit ImageTree(size_t names_max = kTreeNamesMax);

  // What is there from here on belongs to a lower layer. Before each layer's entries.
  void BeginLayer(Whiteouts whiteouts = Whiteouts::kApply);
  // `content`: of a regular file that has bytes, else none. Errors: InvalidArgument (an entry that can't be),
  // FailedPrecondition (a parent that is no directory), ResourceExhausted (over `names_max`); each names
  // the entry. The tree is of no use after an error.
  absl::Status Apply(const LayerEntry& entry, ContentId content);
  // After the last layer. From here on the names of each directory are sorted as bytes.
  void Finish();

  NodeId root() const { return root_; }
  const TreeNodes& nodes() const { return nodes_; }
  const XattrPool& xattrs() const { return xattrs_; }
  size_t size() const { return nodes_.node_count() - 1; }  // files of all kinds, the root counted
  const Notices& notices() const { return notices_; }
  // What was met since the last call; notices() begins anew.
  Notices TakeNotices() { return std::exchange(notices_, Notices()); }

 private:
  // Where an entry goes.
  struct Place {
    NodeId parent = NodeId::kNone;  // kNone: not there
    std::string_view name;          // empty: the root itself
    bool reserved = false;
  };

  absl::Status ApplyEntry(const LayerEntry& entry, ContentId content);
  absl::Status ApplyToRoot(const LayerEntry& entry);
  absl::Status ApplyWhiteout(const Place& place);
  absl::StatusOr<Place> Locate(std::string_view path, std::string& known_path, NodeId& known_parent);
  absl::StatusOr<NodeId> MakeParent(const Place& place);
  absl::Status MakeDirectory(const LayerEntry& entry, NodeId parent, std::string_view name);
  absl::Status MakeHardLink(const LayerEntry& entry, NodeId parent, std::string_view name);
  absl::StatusOr<NodeId> FindTarget(const LayerEntry& entry);
  absl::Status MakeFile(const LayerEntry& entry, ContentId content, NodeId parent, std::string_view name);

  absl::Status AddLink(NodeId parent, std::string_view name, NodeId node);
  void Vacate(NodeId parent, std::string_view name);
  void Touch(LinkId link);
  void RemoveLower(LinkId link);
  void RemoveLowerIn(NodeId directory);
  absl::Status SetAttributes(const LayerEntry& entry, NodeId node);
  absl::StatusOr<XattrSetId> KeepXattrs(const LayerEntry& entry);
  void DropReserved();
  void ForgetPaths();

  const size_t names_max_;
  TreeNodes nodes_;
  XattrPool xattrs_;
  Notices notices_;
  NodeId root_;
  NodeId reserved_root_;  // of what lies under reserved names, in the layer under way
  uint32_t layer_ = 0;
  Whiteouts whiteouts_ = Whiteouts::kApply;  // of the layer under way
  // The parents located last, by their text: archives name the files of a directory one after another.
  // Forgotten when something goes that may lead elsewhere.
  std::string known_path_;
  NodeId known_parent_ = NodeId::kNone;
  std::string known_target_path_;
  NodeId known_target_parent_ = NodeId::kNone;
  TreePath path_;                        // the last that was walked
  std::vector<std::string_view> names_;  // of it
};

}  // namespace sluice
