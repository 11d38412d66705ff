#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "node/image/tree_nodes.h"

namespace sluice {

// A name in a directory of an image, "." and ".." among them.
struct ErofsName {
  std::string_view name;
  NodeId node = NodeId::kNone;
};

// Deals the names of a directory out to blocks, in the order that EROFS looks them up by: as bytes, through
// all blocks, with "." and ".." where they belong. Each block but the last is as full as it gets. There is
// always one. REQUIRES: the names are sorted (ImageTree::Finish)
void PackErofsDirectory(const TreeNodes& nodes, NodeId directory,
                        absl::FunctionRef<void(std::span<const ErofsName>)> on_block);

// Bytes that a block's names take, kBlockBytes at most.
uint32_t ErofsBlockBytes(std::span<const ErofsName> names);

// One block, as long as its names take. `number_of`: a file's number in the image.
void EncodeErofsBlock(const TreeNodes& nodes, std::span<const ErofsName> names,
                      absl::FunctionRef<uint64_t(NodeId)> number_of, std::vector<char>& block);

}  // namespace sluice
