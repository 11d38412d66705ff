#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/image/rooted_tree.h"

namespace sluice {

struct FlattenLimits {
  uint64_t bytes_max = uint64_t{256} << 30;  // of all files together, holes counted
  uint64_t entries_max = 8 << 20;            // of all layers together
  // A layer may unpack to this many times its own size, but to `free_bytes` in any case.
  uint64_t ratio_max = 200;
  uint64_t free_bytes = uint64_t{1} << 30;
  uint64_t xattr_bytes_max = 1 << 20;  // of one file
};

// Applies the layers of an image, lowest first, to a directory: what is left there is what a container would
// see. A layer is a tar archive (ustar, pax, GNU), plain or compressed by gzip or zstd. Whiteouts
// (".wh.name") and opaque whiteouts (".wh..wh..opq") are honoured; owners, modes, times, hard links, devices
// and extended attributes kept. Source: OCI image specification, layer.md.
//
// Nothing is written outside of the directory, whatever an archive says. One thread at a time; wants root.
class LayerFlattener {
 public:
  // `directory` exists and is empty.
  static absl::StatusOr<LayerFlattener> Open(const std::string& directory, FlattenLimits limits);

  // Errors: InvalidArgument (no such archive, or an entry that can't be; named), ResourceExhausted (a limit),
  // and what RootedTree says. The tree is of no use after an error.
  absl::Status Apply(int layer_fd);

  // To be called after the last layer: sets the times of directories.
  absl::Status Finish() { return tree_.Finish(); }

  uint64_t bytes_unpacked() const { return bytes_; }

 private:
  class Archive;

  LayerFlattener(RootedTree tree, FlattenLimits limits) : tree_(std::move(tree)), limits_(limits) {}

  absl::Status ApplyEntry(Archive& archive);
  absl::Status ApplyWhiteout(const RootedTree::Place& place);
  absl::Status MakeEntry(Archive& archive, const RootedTree::Place& place);
  absl::Status WriteFile(Archive& archive, const RootedTree::Place& place);
  absl::Status CheckLimits(const Archive& archive) const;

  RootedTree tree_;
  const FlattenLimits limits_;
  uint64_t bytes_ = 0;
  uint64_t layer_bytes_ = 0;  // of the layer under way
  uint64_t entries_ = 0;
};

}  // namespace sluice
