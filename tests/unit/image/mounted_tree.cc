#include "tests/unit/image/mounted_tree.h"

#include <dirent.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <algorithm>

namespace sluice {
namespace {

mode_t TypeOf(EntryKind kind) {
  switch (kind) {
    case EntryKind::kDirectory:
      return S_IFDIR;
    case EntryKind::kSymlink:
      return S_IFLNK;
    case EntryKind::kCharDevice:
      return S_IFCHR;
    case EntryKind::kBlockDevice:
      return S_IFBLK;
    case EntryKind::kFifo:
      return S_IFIFO;
    case EntryKind::kSocket:
      return S_IFSOCK;
    default:
      return S_IFREG;
  }
}

std::map<std::string, std::string> ReadXattrs(const std::string& path) {
  std::map<std::string, std::string> xattrs;
  std::vector<char> list(256 << 10);
  const ssize_t length = llistxattr(path.c_str(), list.data(), list.size());
  EXPECT_GE(length, 0) << path << ": " << strerror(errno);
  for (const char* name = list.data(); length > 0 && name < list.data() + length; name += strlen(name) + 1) {
    std::string value(64 << 10, '\0');
    const ssize_t size = lgetxattr(path.c_str(), name, value.data(), value.size());
    EXPECT_GE(size, 0) << path << " " << name << ": " << strerror(errno);
    value.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
    EXPECT_TRUE(xattrs.emplace(name, value).second) << path << " has " << name << " twice";
  }
  return xattrs;
}

// As readdir gives them.
std::vector<std::string> ReadNames(const std::string& path) {
  std::vector<std::string> names;
  DIR* const stream = opendir(path.c_str());
  EXPECT_NE(stream, nullptr) << path;
  while (const dirent* entry = stream == nullptr ? nullptr : readdir(stream))
    names.emplace_back(entry->d_name);
  if (stream != nullptr) closedir(stream);
  return names;
}

class Comparison {
 public:
  explicit Comparison(const BuiltImage& image) : image_(image), nodes_(image.tree().nodes()) {}

  void Compare(NodeId id, const std::string& path) {
    const TreeNode& node = nodes_.node(id);
    const struct stat stat = StatOf(path);
    SCOPED_TRACE(path);
    EXPECT_EQ(stat.st_mode, TypeOf(node.kind) | node.permissions);
    EXPECT_EQ(stat.st_uid, node.uid);
    EXPECT_EQ(stat.st_gid, node.gid);
    EXPECT_EQ(stat.st_mtim.tv_sec, node.mtime_s);
    EXPECT_EQ(stat.st_mtim.tv_nsec, node.mtime_ns);
    EXPECT_EQ(stat.st_rdev, makedev(node.device_major, node.device_minor));
    EXPECT_EQ(numbers_.emplace(stat.st_ino, id).first->second, id) << "two files of one number";
    EXPECT_EQ(inodes_.emplace(id, stat.st_ino).first->second, stat.st_ino) << "one file of two numbers";
    CompareXattrs(node, path);
    if (node.kind == EntryKind::kDirectory) {
      CompareChildren(node, path, stat);
    } else {
      EXPECT_EQ(stat.st_nlink, node.link_count);
    }
    if (node.kind == EntryKind::kSymlink) {
      EXPECT_EQ(std::filesystem::read_symlink(path).string(), node.target);
      EXPECT_EQ(static_cast<size_t>(stat.st_size), node.target.size());
    }
    if (node.kind == EntryKind::kRegular) CompareContents(node, path, stat);
  }

 private:
  void CompareXattrs(const TreeNode& node, const std::string& path) {
    std::map<std::string, std::string> right;
    for (XattrId id : image_.tree().xattrs().Set(node.xattrs)) {
      const XattrPool::Xattr& xattr = image_.tree().xattrs().Get(id);
      right[std::string(xattr.name)] = std::string(xattr.value);
    }
    EXPECT_EQ(ReadXattrs(path), right);
  }

  void CompareChildren(const TreeNode& node, const std::string& path, const struct stat& stat) {
    std::vector<std::string> right = {".", ".."};
    nlink_t links = 2;
    for (LinkId id = node.first_child; id != LinkId::kNone; id = nodes_.link(id).next) {
      const TreeLink& link = nodes_.link(id);
      right.emplace_back(link.name());
      links += nodes_.node(link.node).kind == EntryKind::kDirectory;
      Compare(link.node, path + "/" + right.back());
    }
    EXPECT_EQ(stat.st_nlink, links);
    std::ranges::sort(right);
    EXPECT_EQ(ReadNames(path), right);
  }

  void CompareContents(const TreeNode& node, const std::string& path, const struct stat& stat) {
    ASSERT_EQ(static_cast<uint64_t>(stat.st_size), image_.contents_size(node.content));
    if (node.content.empty()) return;
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    for (const auto& [offset, bytes] : image_.RunsOf(node.content)) {
      std::string got(bytes.size(), '\0');
      ASSERT_EQ(pread(file.get(), got.data(), got.size(), static_cast<off_t>(offset)),
                static_cast<ssize_t>(bytes.size()))
          << offset << ": " << strerror(errno);
      ASSERT_TRUE(got == bytes) << offset;
    }
    // Around the runs: zeros.
    for (const auto& [offset, bytes] : image_.RunsOf(node.content)) {
      if (offset > 0) CompareZero(file, offset - 1);
      if (offset + bytes.size() < static_cast<uint64_t>(stat.st_size))
        CompareZero(file, offset + bytes.size());
    }
  }

  void CompareZero(const UniqueFd& file, uint64_t offset) {
    char byte = 'x';
    ASSERT_EQ(pread(file.get(), &byte, 1, static_cast<off_t>(offset)), 1)
        << offset << ": " << strerror(errno);
    ASSERT_EQ(byte, '\0') << offset;
  }

  const BuiltImage& image_;
  const TreeNodes& nodes_;
  std::map<ino_t, NodeId> numbers_;
  std::map<NodeId, ino_t> inodes_;
};

}  // namespace

void ExpectMountedTree(const BuiltImage& image, const std::string& mount_point) {
  Comparison(image).Compare(image.tree().root(), mount_point);
}

}  // namespace sluice
