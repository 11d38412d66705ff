#include "node/image/rooted_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr mode_t kImpliedDirectoryMode = 0755;
constexpr size_t kXattrListBytesMax = 64 << 10;  // the kernel's own bound

// What an overlay file system keeps for itself; an image that brings it could forge redirects.
bool IsOverlayXattr(std::string_view name) {
  return name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.");
}

int OpenInRoot(int root, const std::string& path, uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  return static_cast<int>(syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how)));
}

// A descriptor opened with O_PATH takes few calls itself; its link in /proc takes all, and leads nowhere
// else.
std::string ProcPath(const UniqueFd& fd) {
  return absl::StrCat("/proc/self/fd/", fd.get());
}

absl::StatusOr<std::vector<std::string>> SplitPath(std::string_view path) {
  std::vector<std::string> components;
  for (absl::string_view component : absl::StrSplit(p2p::Abs(path), '/')) {
    if (component.empty() || component == ".") continue;
    if (component == "..")
      return absl::InvalidArgumentError(absl::StrCat(p2p::Quoted(path), " has a \"..\" in it"));
    components.emplace_back(component);
  }
  if (path.find('\0') != std::string_view::npos || components.size() > kTreeDepthMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(p2p::Quoted(path), " has a zero byte in it or is too deep"));
  }
  return components;
}

absl::Status TooDeep() {
  return absl::InvalidArgumentError(
      absl::StrCat("the image has directories nested deeper than ", kTreeDepthMax));
}

}  // namespace

absl::StatusOr<RootedTree> RootedTree::Open(const std::string& path) {
  UniqueFd root(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  struct stat stat;
  if (!root.valid() || fstat(root.get(), &stat) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("directory ", path, " can't be opened"));
  }
  RootedTree tree(path, std::move(root));
  tree.directory_times_[stat.st_ino] = timespec{};
  return tree;
}

RootedTree::RootedTree(std::string path, UniqueFd root) : path_(std::move(path)), root_(std::move(root)) {}

absl::Status RootedTree::Failed(std::string_view what, std::string_view path) const {
  return absl::ErrnoToStatus(errno,
                             absl::StrCat(p2p::Quoted(path), " in ", path_, " can't be ", p2p::Abs(what)));
}

absl::StatusOr<RootedTree::Place> RootedTree::Locate(std::string_view path) {
  absl::StatusOr<std::vector<std::string>> components = SplitPath(path);
  if (!components.ok()) return components.status();
  Place place{nullptr, ".", std::string(path)};
  std::string parent_path;
  if (!components->empty()) {
    place.name = components->back();
    components->pop_back();
    for (const std::string& component : *components) absl::StrAppend(&parent_path, component, "/");
  }
  if (last_parent_ == nullptr || parent_path != last_parent_path_) {
    absl::StatusOr<std::shared_ptr<const Place::Directory>> parent = OpenParent(parent_path);
    if (!parent.ok()) return parent.status();
    last_parent_ = *std::move(parent);
    last_parent_path_ = std::move(parent_path);
  }
  place.parent = last_parent_;
  return place;
}

// Step by step, so that what lies on the way counts as touched and is made where it is missing.
absl::StatusOr<std::shared_ptr<const RootedTree::Place::Directory>> RootedTree::OpenParent(
    std::string_view path) {
  auto directory = std::make_shared<Place::Directory>();
  std::string prefix = ".";
  directory->fd = UniqueFd(OpenInRoot(root_.get(), prefix, O_PATH | O_DIRECTORY));
  struct stat stat;
  if (!directory->fd.valid() || fstat(directory->fd.get(), &stat) != 0) return Failed("opened", path);
  directory->inode = stat.st_ino;

  for (absl::string_view component : absl::StrSplit(p2p::Abs(path), '/', absl::SkipEmpty())) {
    const std::string name(component);
    Touch(*directory, name);
    absl::StrAppend(&prefix, "/", name);
    auto next = std::make_shared<Place::Directory>();
    next->fd = UniqueFd(OpenInRoot(root_.get(), prefix, O_PATH | O_DIRECTORY));
    const bool missing = !next->fd.valid() && errno == ENOENT;
    if (missing) {
      // Fails if it exists after all: then it is a symbolic link that leads nowhere.
      if (mkdirat(directory->fd.get(), name.c_str(), kImpliedDirectoryMode) != 0)
        return Failed("made", prefix);
      next->fd = UniqueFd(OpenInRoot(root_.get(), prefix, O_PATH | O_DIRECTORY));
    }
    if (!next->fd.valid() || fstat(next->fd.get(), &stat) != 0) return Failed("used as a directory", prefix);
    next->inode = stat.st_ino;
    if (missing) directory_times_[stat.st_ino] = timespec{};
    directory = std::move(next);
  }
  return directory;
}

template <typename Visit>
absl::Status RootedTree::ForEachChild(int directory, const Visit& visit) {
  const int readable = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const stream = readable < 0 ? nullptr : fdopendir(readable);
  if (stream == nullptr) {
    absl::Status failed = Failed("listed", "a directory");
    if (readable >= 0) close(readable);
    return failed;
  }
  // First all names, then the visits: they remove entries, and a stream that is under way may then skip some.
  std::vector<std::string> names;
  while (const dirent* entry = readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  closedir(stream);
  for (const std::string& name : names) {
    if (absl::Status visited = visit(name); !visited.ok()) return visited;
  }
  return absl::OkStatus();
}

absl::Status RootedTree::RemoveTree(int parent, const std::string& name, size_t depth) {
  if (depth > kTreeDepthMax) return TooDeep();
  struct stat stat;
  if (fstatat(parent, name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Failed("examined", name);
  }
  last_parent_ = nullptr;
  if (!S_ISDIR(stat.st_mode)) {
    return unlinkat(parent, name.c_str(), 0) == 0 ? absl::OkStatus() : Failed("removed", name);
  }
  const UniqueFd directory(openat(parent, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory.valid()) return Failed("opened", name);
  absl::Status emptied = ForEachChild(directory.get(), [&](const std::string& child) {
    return RemoveTree(directory.get(), child, depth + 1);
  });
  if (!emptied.ok()) return emptied;
  directory_times_.erase(stat.st_ino);
  return unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 ? absl::OkStatus() : Failed("removed", name);
}

// What this layer has put there stays, and so do the directories on the way to it.
absl::Status RootedTree::RemoveUntouched(int parent, ino_t parent_inode, const std::string& name,
                                         size_t depth) {
  if (depth > kTreeDepthMax) return TooDeep();
  if (!IsTouched(parent_inode, name)) return RemoveTree(parent, name, depth);
  const UniqueFd directory(openat(parent, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory.valid()) return absl::OkStatus();  // touched, and no directory
  struct stat stat;
  if (fstat(directory.get(), &stat) != 0) return Failed("examined", name);
  return ForEachChild(directory.get(), [&](const std::string& child) {
    return RemoveUntouched(directory.get(), stat.st_ino, child, depth + 1);
  });
}

absl::Status RootedTree::RemoveLower(const Place& place) {
  return RemoveUntouched(place.parent->fd.get(), place.parent->inode, place.name, 0);
}

absl::Status RootedTree::RemoveLowerSiblings(const Place& place) {
  return ForEachChild(place.parent->fd.get(), [&](const std::string& child) {
    return RemoveUntouched(place.parent->fd.get(), place.parent->inode, child, 0);
  });
}

absl::Status RootedTree::Vacate(const Place& place) {
  if (place.name == ".") return absl::InvalidArgumentError("the root of an image must be a directory");
  Touch(*place.parent, place.name);
  return RemoveTree(place.parent->fd.get(), place.name, 0);
}

absl::Status RootedTree::MakeDirectory(const Place& place) {
  struct stat stat;
  const bool is_there =
      fstatat(place.parent->fd.get(), place.name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISDIR(stat.st_mode);
  if (is_there) {
    Touch(*place.parent, place.name);
    return absl::OkStatus();
  }
  if (absl::Status vacated = Vacate(place); !vacated.ok()) return vacated;
  if (mkdirat(place.parent->fd.get(), place.name.c_str(), kImpliedDirectoryMode) != 0) {
    return Failed("made", place.path);
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> RootedTree::MakeFile(const Place& place) {
  if (absl::Status vacated = Vacate(place); !vacated.ok()) return vacated;
  UniqueFd file(openat(place.parent->fd.get(), place.name.c_str(),
                       O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid()) return Failed("made", place.path);
  return file;
}

absl::Status RootedTree::MakeHardLink(const Place& place, const Place& target) {
  const int from = target.parent->fd.get();
  const int to = place.parent->fd.get();
  struct stat old;
  struct stat linked;
  if (fstatat(from, target.name.c_str(), &linked, AT_SYMLINK_NOFOLLOW) != 0) {
    return Failed("found as the target of a hard link", target.path);
  }
  if (S_ISDIR(linked.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(p2p::Quoted(place.path), " is a hard link to a directory"));
  }
  if (fstatat(to, place.name.c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0 && old.st_ino == linked.st_ino) {
    Touch(*place.parent, place.name);
    return absl::OkStatus();  // making room for the link would remove its target
  }
  if (absl::Status vacated = Vacate(place); !vacated.ok()) return vacated;
  if (linkat(from, target.name.c_str(), to, place.name.c_str(), 0) != 0) return Failed("linked", place.path);
  return absl::OkStatus();
}

absl::Status RootedTree::MakeSymlink(const Place& place, const std::string& target) {
  if (absl::Status vacated = Vacate(place); !vacated.ok()) return vacated;
  if (symlinkat(target.c_str(), place.parent->fd.get(), place.name.c_str()) != 0) {
    return Failed("made", place.path);
  }
  return absl::OkStatus();
}

absl::Status RootedTree::MakeNode(const Place& place, mode_t type, dev_t device) {
  if (absl::Status vacated = Vacate(place); !vacated.ok()) return vacated;
  if (mknodat(place.parent->fd.get(), place.name.c_str(), type | 0600, device) != 0) {
    return Failed("made (devices need root)", place.path);
  }
  return absl::OkStatus();
}

namespace {

// The old ones go first: order of creation is what some file systems list, and an image must not depend on
// it.
absl::Status ReplaceXattrs(const std::string& file, const FileMetadata& metadata, std::string_view path) {
  std::vector<char> list(kXattrListBytesMax);
  const ssize_t length = listxattr(file.c_str(), list.data(), list.size());
  for (const char* name = list.data(); length > 0 && name < list.data() + length;
       name += std::string_view(name).size() + 1) {
    removexattr(file.c_str(),
                name);  // a label that the host puts on every file stays; that is the host's choice
  }
  for (const auto& [name, value] : metadata.xattrs) {
    if (IsOverlayXattr(name)) continue;
    if (setxattr(file.c_str(), name.c_str(), value.data(), value.size(), 0) != 0) {
      return absl::ErrnoToStatus(
          errno, absl::StrCat("extended attribute ", name, " of ", p2p::Quoted(path),
                              " can't be set (it needs root, and a TMPDIR whose file system can keep it)"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RootedTree::SetMetadata(const Place& place, const FileMetadata& metadata) {
  const UniqueFd file(openat(place.parent->fd.get(), place.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat stat;
  if (!file.valid() || fstat(file.get(), &stat) != 0) return Failed("opened", place.path);
  // In this order: a change of owner drops set-user-id and capabilities.
  if (fchownat(file.get(), "", metadata.uid, metadata.gid, AT_EMPTY_PATH) != 0) {
    return Failed("given its owner (that needs root)", place.path);
  }
  if (absl::Status set = ReplaceXattrs(ProcPath(file), metadata, place.path); !set.ok()) return set;
  if (!S_ISLNK(stat.st_mode) && chmod(ProcPath(file).c_str(), metadata.permissions) != 0) {
    return Failed("given its mode", place.path);
  }
  if (S_ISDIR(stat.st_mode)) {
    directory_times_[stat.st_ino] = metadata.mtime;
    return absl::OkStatus();
  }
  const timespec times[2] = {metadata.mtime, metadata.mtime};
  if (utimensat(file.get(), "", times, AT_EMPTY_PATH) != 0) return Failed("given its time", place.path);
  return absl::OkStatus();
}

absl::Status RootedTree::RestoreTimes(int directory, size_t depth) {
  if (depth > kTreeDepthMax) return TooDeep();
  absl::Status children = ForEachChild(directory, [&](const std::string& child) {
    const UniqueFd fd(openat(directory, child.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    return fd.valid() ? RestoreTimes(fd.get(), depth + 1) : absl::OkStatus();
  });
  if (!children.ok()) return children;
  struct stat stat;
  if (fstat(directory, &stat) != 0) return Failed("examined", "a directory");
  const auto known = directory_times_.find(stat.st_ino);
  const timespec mtime = known == directory_times_.end() ? timespec{} : known->second;
  const timespec times[2] = {mtime, mtime};
  if (utimensat(directory, "", times, AT_EMPTY_PATH) != 0) return Failed("given its time", "a directory");
  return absl::OkStatus();
}

absl::Status RootedTree::Finish() {
  return RestoreTimes(root_.get(), 0);
}

}  // namespace sluice
