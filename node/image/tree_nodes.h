#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "node/image/content_table.h"
#include "node/image/layer_reader.h"
#include "node/image/text_arena.h"
#include "node/image/xattr_pool.h"

namespace sluice {

// A file of any kind, by its place in a TreeNodes. Below the number of places.
enum class NodeId : uint32_t { kNone = 0xffffffff };
// A name that a node has in a directory.
enum class LinkId : uint32_t { kNone = 0xffffffff };

inline constexpr size_t kNameBytesMax = 255;  // Linux, EROFS

struct TreeNode {
  int64_t mtime_s = 0;  // since 1970, may be negative
  uint32_t mtime_ns = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t link_count = 0;  // names that it has
  XattrSetId xattrs = XattrSetId::kEmpty;
  uint16_t permissions = 0;                // 07777 at most
  EntryKind kind = EntryKind::kDirectory;  // never kHardLink
  ContentId content;                       // of kRegular
  uint32_t device_major = 0;               // of kCharDevice and kBlockDevice
  uint32_t device_minor = 0;
  LinkId link = LinkId::kNone;         // a directory's own; none for the root
  LinkId first_child = LinkId::kNone;  // of a directory
  uint32_t cleared_by = 0;             // of a directory: the last layer that hid all that is lower in it
  std::string_view target;             // of kSymlink
};

struct TreeLink {
  const char* name_bytes = nullptr;
  uint8_t name_size = 0;
  NodeId parent = NodeId::kNone;
  NodeId node = NodeId::kNone;
  LinkId next = LinkId::kNone;  // in the same directory
  LinkId previous = LinkId::kNone;
  uint32_t layer = 0;  // that last put it there, or put something below it

  std::string_view name() const { return {name_bytes, name_size}; }
};

// The files of a tree, their names, and which is in which directory: nothing of what a layer means. Places of
// files that go are given anew. One thread at a time; not movable. References stay good until their place is
// given up.
class TreeNodes {
 public:
  TreeNodes();
  TreeNodes(const TreeNodes&) = delete;
  TreeNodes& operator=(const TreeNodes&) = delete;

  TreeNode& node(NodeId id) { return nodes_[static_cast<size_t>(id)]; }
  const TreeNode& node(NodeId id) const { return nodes_[static_cast<size_t>(id)]; }
  TreeLink& link(LinkId id) { return links_[static_cast<size_t>(id)]; }
  const TreeLink& link(LinkId id) const { return links_[static_cast<size_t>(id)]; }

  size_t places() const { return nodes_.size(); }  // some may be free
  size_t node_count() const { return nodes_.size() - free_nodes_.size(); }
  size_t link_count() const { return links_.size() - free_links_.size(); }

  // A node without a name yet.
  NodeId MakeNode(EntryKind kind);
  // Gives a node a name. REQUIRES: `directory` is one and has no such name; 1 to kNameBytesMax bytes; a
  // directory gets one name only
  LinkId AddLink(NodeId directory, std::string_view name, NodeId node);
  // kNone if there is no such name, or `directory` isn't one.
  LinkId Find(NodeId directory, std::string_view name) const;
  // Takes a name away, with all that is below it, and the files that have no name left. However deep.
  void Remove(LinkId id);
  // Sorts a directory's names as bytes.
  void SortChildren(NodeId directory);

  std::string_view KeepText(std::string_view text) { return texts_.Add(text); }

 private:
  struct Key {
    NodeId directory;
    std::string_view name;

    friend bool operator==(const Key&, const Key&) = default;
  };
  struct LinkHash {
    using is_transparent = void;
    const TreeNodes* nodes;
    size_t operator()(const Key& key) const;
    size_t operator()(LinkId id) const { return (*this)(nodes->KeyOf(id)); }
  };
  struct LinkEqual {
    using is_transparent = void;
    const TreeNodes* nodes;
    bool operator()(LinkId a, LinkId b) const { return a == b; }
    bool operator()(LinkId a, const Key& b) const { return nodes->KeyOf(a) == b; }
  };

  Key KeyOf(LinkId id) const { return {link(id).parent, link(id).name()}; }
  void Unlink(LinkId id);

  TextArena texts_;
  std::deque<TreeNode> nodes_;  // references stay good while it grows
  std::deque<TreeLink> links_;
  std::vector<NodeId> free_nodes_;
  std::vector<LinkId> free_links_;
  absl::flat_hash_set<LinkId, LinkHash, LinkEqual> by_name_;
};

}  // namespace sluice
