#include "node/image/tree_nodes.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "p2p/http/text.h"

namespace sluice {

size_t TreeNodes::LinkHash::operator()(const Key& key) const {
  return absl::HashOf(key.directory, p2p::Abs(key.name));
}

TreeNodes::TreeNodes() : by_name_(0, LinkHash{this}, LinkEqual{this}) {}

NodeId TreeNodes::MakeNode(EntryKind kind) {
  NodeId id;
  if (free_nodes_.empty()) {
    id = static_cast<NodeId>(nodes_.size());
    nodes_.emplace_back();
  } else {
    id = free_nodes_.back();
    free_nodes_.pop_back();
    node(id) = TreeNode();
  }
  node(id).kind = kind;
  return id;
}

LinkId TreeNodes::AddLink(NodeId directory, std::string_view name, NodeId child) {
  LinkId id;
  if (free_links_.empty()) {
    id = static_cast<LinkId>(links_.size());
    links_.emplace_back();
  } else {
    id = free_links_.back();
    free_links_.pop_back();
  }
  TreeNode& parent = node(directory);
  link(id) = {.name_bytes = texts_.Add(name).data(),
              .name_size = static_cast<uint8_t>(name.size()),
              .parent = directory,
              .node = child,
              .next = parent.first_child};
  if (parent.first_child != LinkId::kNone) link(parent.first_child).previous = id;
  parent.first_child = id;
  ++node(child).link_count;
  if (node(child).kind == EntryKind::kDirectory) node(child).link = id;
  by_name_.insert(id);
  return id;
}

LinkId TreeNodes::Find(NodeId directory, std::string_view name) const {
  const auto found = by_name_.find(Key{directory, name});
  return found == by_name_.end() ? LinkId::kNone : *found;
}

void TreeNodes::Unlink(LinkId id) {
  by_name_.erase(id);
  const TreeLink& gone = link(id);
  if (gone.previous != LinkId::kNone) {
    link(gone.previous).next = gone.next;
  } else {
    node(gone.parent).first_child = gone.next;
  }
  if (gone.next != LinkId::kNone) link(gone.next).previous = gone.previous;
  if (--node(gone.node).link_count == 0) free_nodes_.push_back(gone.node);
  free_links_.push_back(id);
}

void TreeNodes::Remove(LinkId id) {
  // From the deepest up, so that a directory is free when it goes. Not by recursion: a layer says how deep.
  std::vector<LinkId> open = {id};
  while (!open.empty()) {
    const LinkId top = open.back();
    const LinkId child = node(link(top).node).first_child;
    if (child != LinkId::kNone) {
      open.push_back(child);
    } else {
      open.pop_back();
      Unlink(top);
    }
  }
}

void TreeNodes::SortChildren(NodeId directory) {
  std::vector<LinkId> children;
  for (LinkId id = node(directory).first_child; id != LinkId::kNone; id = link(id).next) {
    children.push_back(id);
  }
  std::ranges::sort(children, {}, [this](LinkId id) { return link(id).name(); });
  LinkId next = LinkId::kNone;
  for (auto id = children.rbegin(); id != children.rend(); ++id) {
    link(*id).next = next;
    if (next != LinkId::kNone) link(next).previous = *id;
    next = *id;
  }
  node(directory).first_child = next;
  if (next != LinkId::kNone) link(next).previous = LinkId::kNone;
}

}  // namespace sluice
