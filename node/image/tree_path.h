#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "node/image/tree_nodes.h"

namespace sluice {

inline constexpr size_t kPathLinksMax = 255;  // symbolic links on the way, as umoci and containerd have it
inline constexpr size_t kPathStepsMax = 8 << 10;  // names on the way, those of symbolic links counted
inline constexpr size_t kTreeDepthBound = 4096;   // of directories within directories

// The names of a path as umoci and containerd clean it (Go's filepath.Clean): "." and empty names go, ".."
// takes the name before it away, and is nothing at the root. `names` are parts of `path`.
void CleanPath(std::string_view path, std::vector<std::string_view>& names);

// Where a path leads in a tree, each symbolic link on the way followed within the root. What is not there yet
// is part of the way all the same, as in umoci and containerd, who make it. Keeps its memory from path to
// path. One thread at a time.
class TreePath {
 public:
  struct Step {
    NodeId node = NodeId::kNone;  // kNone: not there
    std::string_view name;        // empty: the root
  };

  // `names` are of directories, below the directory `root`; they outlive the steps. Errors: InvalidArgument
  // (over a bound, or a name of more than kNameBytesMax bytes).
  absl::Status Resolve(const TreeNodes& nodes, NodeId root, const std::vector<std::string_view>& names);

  // From the root on; each is in the one before.
  const std::vector<Step>& steps() const { return steps_; }
  // kNone if not all of the way is there.
  NodeId end() const { return steps_.back().node; }
  // The way to a step, for messages.
  std::string Text(size_t step) const;

 private:
  absl::Status Follow(const TreeNodes& nodes, std::string_view name);
  void FollowTarget(std::string_view target);

  std::vector<Step> steps_;
  std::vector<std::string_view> ahead_;  // still to go, the next one last
  size_t links_ = 0;
};

}  // namespace sluice
