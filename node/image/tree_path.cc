#include "node/image/tree_path.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/http/text.h"

namespace sluice {

void CleanPath(std::string_view path, std::vector<std::string_view>& names) {
  names.clear();
  for (absl::string_view part : absl::StrSplit(p2p::Abs(path), '/', absl::SkipEmpty())) {
    if (part == ".") continue;
    if (part != "..") {
      names.push_back(p2p::Std(part));
    } else if (!names.empty()) {
      names.pop_back();
    }
  }
}

std::string TreePath::Text(size_t step) const {
  std::string text;
  for (size_t i = 1; i <= step; ++i) absl::StrAppend(&text, i > 1 ? "/" : "", p2p::Abs(steps_[i].name));
  return text;
}

absl::Status TreePath::Resolve(const TreeNodes& nodes, NodeId root,
                               const std::vector<std::string_view>& names) {
  steps_.assign(1, {root, {}});
  links_ = 0;
  ahead_.assign(names.rbegin(), names.rend());
  for (size_t gone = 0; !ahead_.empty(); ++gone) {
    if (gone == kPathStepsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("its path leads through more than ", kPathStepsMax, " names"));
    }
    const std::string_view name = ahead_.back();
    ahead_.pop_back();
    if (absl::Status followed = Follow(nodes, name); !followed.ok()) return followed;
  }
  return absl::OkStatus();
}

absl::Status TreePath::Follow(const TreeNodes& nodes, std::string_view name) {
  if (name == ".") return absl::OkStatus();
  if (name == "..") {
    // By text, also where nothing is or where no directory is: that is what both umoci and containerd do.
    if (steps_.size() > 1) steps_.pop_back();
    return absl::OkStatus();
  }
  if (name.size() > kNameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("its path has a name of ", name.size(), " bytes, ",
                                                   kNameBytesMax, " at most can be: ", p2p::Quoted(name)));
  }
  const NodeId here = end();
  const LinkId found = here == NodeId::kNone ? LinkId::kNone : nodes.Find(here, name);
  if (found == LinkId::kNone) {
    steps_.push_back({NodeId::kNone, name});
  } else if (const TreeLink& link = nodes.link(found); nodes.node(link.node).kind != EntryKind::kSymlink) {
    steps_.push_back({link.node, link.name()});
  } else if (++links_ > kPathLinksMax) {
    return absl::InvalidArgumentError(absl::StrCat("its path leads through more than ", kPathLinksMax,
                                                   " symbolic links, or round in a circle"));
  } else {
    FollowTarget(nodes.node(link.node).target);
  }
  if (steps_.size() > kTreeDepthBound) {
    return absl::InvalidArgumentError(
        absl::StrCat("its path is deeper than ", kTreeDepthBound, " directories"));
  }
  return absl::OkStatus();
}

void TreePath::FollowTarget(std::string_view target) {
  if (target.starts_with('/')) steps_.resize(1);
  const size_t rest = ahead_.size();
  for (absl::string_view part : absl::StrSplit(p2p::Abs(target), '/', absl::SkipEmpty())) {
    ahead_.push_back(p2p::Std(part));
  }
  std::reverse(ahead_.begin() + static_cast<ptrdiff_t>(rest), ahead_.end());
}

}  // namespace sluice
