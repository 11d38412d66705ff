#include "node/image/erofs_directory.h"

#include <cstring>

#include "node/image/erofs_format.h"

namespace sluice {
namespace {

uint8_t FileType(EntryKind kind) {
  switch (kind) {
    case EntryKind::kDirectory:
      return 2;
    case EntryKind::kCharDevice:
      return 3;
    case EntryKind::kBlockDevice:
      return 4;
    case EntryKind::kFifo:
      return 5;
    case EntryKind::kSocket:
      return 6;
    case EntryKind::kSymlink:
      return 7;
    default:
      return 1;
  }
}

uint32_t BytesOf(std::string_view name) {
  return static_cast<uint32_t>(sizeof(erofs::Dirent) + name.size());
}

// Collects names until a block is full.
class BlockPacker {
 public:
  explicit BlockPacker(absl::FunctionRef<void(std::span<const ErofsName>)> on_block) : on_block_(on_block) {}

  void Add(ErofsName name) {
    if (bytes_ + BytesOf(name.name) > kBlockBytes) Flush();
    bytes_ += BytesOf(name.name);
    names_.push_back(name);
  }

  void Flush() {
    on_block_(names_);
    names_.clear();
    bytes_ = 0;
  }

 private:
  const absl::FunctionRef<void(std::span<const ErofsName>)> on_block_;
  std::vector<ErofsName> names_;
  uint32_t bytes_ = 0;
};

}  // namespace

void PackErofsDirectory(const TreeNodes& nodes, NodeId directory,
                        absl::FunctionRef<void(std::span<const ErofsName>)> on_block) {
  const TreeNode& node = nodes.node(directory);
  const NodeId parent = node.link == LinkId::kNone ? directory : nodes.link(node.link).parent;
  const ErofsName own[] = {{".", directory}, {"..", parent}};
  std::span<const ErofsName> own_left = own;
  BlockPacker packer(on_block);
  for (LinkId id = node.first_child; id != LinkId::kNone; id = nodes.link(id).next) {
    const TreeLink& link = nodes.link(id);
    for (; !own_left.empty() && own_left.front().name < link.name(); own_left = own_left.subspan(1)) {
      packer.Add(own_left.front());
    }
    packer.Add({link.name(), link.node});
  }
  for (const ErofsName& name : own_left) packer.Add(name);
  packer.Flush();
}

uint32_t ErofsBlockBytes(std::span<const ErofsName> names) {
  uint32_t bytes = 0;
  for (const ErofsName& name : names) bytes += BytesOf(name.name);
  return bytes;
}

void EncodeErofsBlock(const TreeNodes& nodes, std::span<const ErofsName> names,
                      absl::FunctionRef<uint64_t(NodeId)> number_of, std::vector<char>& block) {
  block.resize(ErofsBlockBytes(names));
  char* entry_at = block.data();
  size_t name_at = names.size() * sizeof(erofs::Dirent);
  for (const ErofsName& name : names) {
    const erofs::Dirent entry = {.nid = number_of(name.node),
                                 .nameoff = static_cast<uint16_t>(name_at),
                                 .file_type = FileType(nodes.node(name.node).kind),
                                 .reserved = 0};
    std::memcpy(entry_at, &entry, sizeof(entry));
    std::memcpy(block.data() + name_at, name.name.data(), name.name.size());
    entry_at += sizeof(entry);
    name_at += name.name.size();
  }
}

}  // namespace sluice
