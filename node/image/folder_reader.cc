#include "node/image/folder_reader.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "node/image/xattrs.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr size_t kBufferBytes = 256 << 10;
constexpr char kHostLabel[] = "security.selinux";
constexpr size_t kLinkBytes = 4096;      // Linux has none of more (PATH_MAX)
constexpr size_t kOpenDirectories = 32;  // of the levels, at once: descriptors are few
constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

absl::Status Failed(std::string_view why) {
  return absl::ErrnoToStatus(errno, p2p::Abs(why));
}

absl::Status Changed() {
  return absl::AbortedError("it was changed while it was read");
}

absl::StatusOr<std::vector<std::string>> NamesIn(int directory) {
  // The stream closes its descriptor, so it gets one of its own.
  UniqueFd fd(openat(directory, ".", kDirectoryFlags));
  if (!fd.valid()) return Failed("it can't be listed");
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(fd.get()), closedir);
  if (stream == nullptr) return Failed("it can't be listed");
  fd.release();
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* const entry = readdir(stream.get());
    if (entry == nullptr && errno != 0) return Failed("it can't be listed");
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<EntryKind> KindOf(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return EntryKind::kRegular;
    case S_IFDIR:
      return EntryKind::kDirectory;
    case S_IFLNK:
      return EntryKind::kSymlink;
    case S_IFCHR:
      return EntryKind::kCharDevice;
    case S_IFBLK:
      return EntryKind::kBlockDevice;
    case S_IFIFO:
      return EntryKind::kFifo;
    case S_IFSOCK:
      return EntryKind::kSocket;
    default:
      return absl::InvalidArgumentError("a kind of file that Linux has not");
  }
}

bool IsSameFile(const struct stat& one, const struct stat& other) {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino && one.st_size == other.st_size &&
         one.st_mode == other.st_mode && one.st_mtim.tv_sec == other.st_mtim.tv_sec &&
         one.st_mtim.tv_nsec == other.st_mtim.tv_nsec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FolderReader>> FolderReader::Open(const std::string& path,
                                                                 const LayerLimits& limits,
                                                                 LayerUsage& usage) {
  UniqueFd root(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) return Failed(absl::StrCat("the directory ", p2p::Quoted(path), " can't be opened"));
  return std::unique_ptr<FolderReader>(new FolderReader(std::move(root), limits, usage));
}

FolderReader::FolderReader(UniqueFd root, const LayerLimits& limits, LayerUsage& usage)
    : limits_(limits), usage_(usage), root_(std::move(root)), buffer_(kBufferBytes) {}

absl::StatusOr<bool> FolderReader::Next(LayerEntry& entry) {
  if (!status_.ok()) return status_;
  absl::StatusOr<bool> more = ReadEntry(entry);
  if (!more.ok()) return status_ = Named(more.status());
  return more;
}

absl::StatusOr<bool> FolderReader::NextRun(ContentRun& run) {
  if (!status_.ok()) return status_;
  absl::StatusOr<bool> more = ReadRun(run);
  if (!more.ok()) return status_ = Named(more.status());
  return more;
}

absl::Status FolderReader::Named(const absl::Status& status) const {
  // What was there a moment ago and is not now.
  const absl::StatusCode code = absl::IsNotFound(status) ? absl::StatusCode::kAborted : status.code();
  return absl::Status(code, absl::StrCat("file ", p2p::Quoted(path_), ": ", status.message()));
}

absl::StatusOr<bool> FolderReader::ReadEntry(LayerEntry& entry) {
  file_name_.clear();
  file_ = UniqueFd();
  if (root_.valid()) {
    const absl::Status read = ReadRoot(entry);
    return read.ok() ? absl::StatusOr<bool>(true) : read;
  }
  while (!directories_.empty()) {
    Directory& directory = directories_.back();
    path_.resize(directory.path_size);
    if (directory.next < directory.names.size()) {
      const absl::Status read = ReadNamed(directory.names[directory.next++], entry);
      return read.ok() ? absl::StatusOr<bool>(true) : read;
    }
    if (absl::Status left = Leave(); !left.ok()) return left;
  }
  return false;
}

absl::Status FolderReader::ReadRoot(LayerEntry& entry) {
  path_ = ".";
  if (fstat(root_.get(), &stat_) != 0) return Failed("it can't be read");
  if (absl::Status entered = Enter(std::move(root_)); !entered.ok()) return entered;
  return Describe(".", entry);
}

absl::Status FolderReader::ReadNamed(const std::string& name, LayerEntry& entry) {
  path_ += name;
  const int parent = directories_.back().fd.get();
  if (fstatat(parent, name.c_str(), &stat_, AT_SYMLINK_NOFOLLOW) != 0) return Failed("it can't be read");
  UniqueFd directory;
  if (S_ISDIR(stat_.st_mode)) {
    directory = UniqueFd(openat(parent, name.c_str(), kDirectoryFlags));
    if (!directory.valid()) return Failed("it can't be opened");
    struct stat opened {};
    if (fstat(directory.get(), &opened) != 0) return Failed("it can't be read");
    if (!IsSameFile(stat_, opened)) return Changed();
  }
  if (absl::Status described = Describe(name, entry); !described.ok()) return described;
  if (!directory.valid()) return absl::OkStatus();
  absl::Status entered = Enter(std::move(directory));
  if (entered.ok()) {
    path_ += '/';
    directories_.back().path_size = path_.size();
  }
  return entered;
}

absl::Status FolderReader::Describe(const std::string& name, LayerEntry& entry) {
  entry = LayerEntry();
  entry.path = path_;
  absl::StatusOr<EntryKind> kind = KindOf(stat_.st_mode);
  if (!kind.ok()) return kind.status();
  entry.kind = *kind;
  if (IsLaterName(entry)) return usage_.Add(0, limits_);
  // By the way of /proc, since there is no call for the attributes of a name in a directory.
  const std::string place = absl::StrCat("/proc/self/fd/", directories_.back().fd.get(), "/", name);
  absl::StatusOr<std::map<std::string, std::string>> xattrs = ReadXattrs(place, limits_.xattr_bytes_max);
  if (!xattrs.ok()) return xattrs.status();
  if (xattrs->erase(kHostLabel) > 0) notices_.Add(NoticeKind::kHostLabel, path_, {});
  entry.attributes = {.uid = stat_.st_uid,
                      .gid = stat_.st_gid,
                      .permissions = static_cast<uint16_t>(stat_.st_mode & 07777),
                      .mtime_s = stat_.st_mtim.tv_sec,
                      .mtime_ns = static_cast<uint32_t>(stat_.st_mtim.tv_nsec),
                      .xattrs = *std::move(xattrs)};
  if (*kind == EntryKind::kCharDevice || *kind == EntryKind::kBlockDevice) {
    entry.device_major = major(stat_.st_rdev);
    entry.device_minor = minor(stat_.st_rdev);
  }
  if (*kind == EntryKind::kSymlink) {
    if (absl::Status read = ReadLink(name, entry); !read.ok()) return read;
  }
  if (*kind == EntryKind::kRegular) {
    entry.size = static_cast<uint64_t>(stat_.st_size);
    file_name_ = entry.size > 0 ? name : std::string();
  }
  return usage_.Add(entry.size, limits_);
}

absl::Status FolderReader::ReadLink(const std::string& name, LayerEntry& entry) {
  char target[kLinkBytes + 1];
  const ssize_t n = readlinkat(directories_.back().fd.get(), name.c_str(), target, sizeof(target));
  if (n < 0) return errno == EINVAL ? Changed() : Failed("it can't be read");
  if (static_cast<size_t>(n) == sizeof(target)) return absl::InvalidArgumentError("its target is too long");
  entry.target.assign(target, static_cast<size_t>(n));
  return absl::OkStatus();
}

bool FolderReader::IsLaterName(LayerEntry& entry) {
  if (entry.kind == EntryKind::kDirectory || stat_.st_nlink < 2) return false;
  const auto [at, first] = first_names_.try_emplace(FileId(stat_.st_dev, stat_.st_ino));
  if (first) {
    at->second = {entry.path, stat_.st_nlink - 1};
    return false;
  }
  entry.kind = EntryKind::kHardLink;
  entry.target = at->second.path;
  if (--at->second.names_left == 0) first_names_.erase(at);
  return true;
}

absl::Status FolderReader::Enter(UniqueFd directory) {
  struct stat stat {};
  if (fstat(directory.get(), &stat) != 0) return Failed("it can't be read");
  absl::StatusOr<std::vector<std::string>> names = NamesIn(directory.get());
  if (!names.ok()) return names.status();
  if (directories_.size() >= kOpenDirectories) {
    directories_[directories_.size() - kOpenDirectories].fd = UniqueFd();
  }
  directories_.push_back({.fd = std::move(directory),
                          .id = FileId(stat.st_dev, stat.st_ino),
                          .names = *std::move(names),
                          .next = 0,
                          .path_size = 0});
  return absl::OkStatus();
}

absl::Status FolderReader::Leave() {
  const UniqueFd below = std::move(directories_.back().fd);
  directories_.pop_back();
  if (directories_.empty() || directories_.back().fd.valid()) return absl::OkStatus();
  Directory& directory = directories_.back();
  UniqueFd fd(openat(below.get(), "..", kDirectoryFlags));
  if (!fd.valid()) return Failed("the directory above it can't be opened");
  struct stat stat {};
  if (fstat(fd.get(), &stat) != 0) return Failed("the directory above it can't be read");
  if (FileId(stat.st_dev, stat.st_ino) != directory.id) return Changed();  // it was moved
  directory.fd = std::move(fd);
  return absl::OkStatus();
}

absl::Status FolderReader::OpenFile() {
  // It may have become a pipe, which would be waited for.
  file_ = UniqueFd(openat(directories_.back().fd.get(), file_name_.c_str(),
                          O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file_.valid()) return errno == ELOOP ? Changed() : Failed("it can't be opened");
  position_ = 0;
  data_end_ = 0;
  return CheckUnchanged();
}

absl::Status FolderReader::CheckUnchanged() const {
  struct stat now {};
  if (fstat(file_.get(), &now) != 0) return Failed("it can't be read");
  return IsSameFile(stat_, now) ? absl::OkStatus() : Changed();
}

absl::Status FolderReader::FindData() {
  const auto size = static_cast<uint64_t>(stat_.st_size);
  data_end_ = size;
  const off_t data = lseek(file_.get(), static_cast<off_t>(position_), SEEK_DATA);
  if (data < 0 && errno == ENXIO) {
    position_ = size;
    return absl::OkStatus();
  }
  if (data < 0 && errno != EINVAL && errno != ENOTSUP) return Failed("it can't be read");
  if (data < 0) return absl::OkStatus();  // a file system that knows no holes
  position_ = std::min(static_cast<uint64_t>(data), size);
  const off_t hole = lseek(file_.get(), data, SEEK_HOLE);
  if (hole < 0) return Failed("it can't be read");
  data_end_ = std::min(static_cast<uint64_t>(hole), size);
  return absl::OkStatus();
}

absl::StatusOr<bool> FolderReader::ReadRun(ContentRun& run) {
  if (file_name_.empty()) return false;
  if (!file_.valid()) {
    if (absl::Status opened = OpenFile(); !opened.ok()) return opened;
  }
  const auto size = static_cast<uint64_t>(stat_.st_size);
  if (position_ == data_end_ && position_ < size) {
    if (absl::Status found = FindData(); !found.ok()) return found;
  }
  if (position_ >= size) {
    const absl::Status unchanged = CheckUnchanged();
    file_name_.clear();
    file_ = UniqueFd();
    return unchanged.ok() ? absl::StatusOr<bool>(false) : unchanged;
  }
  const size_t wanted = std::min<uint64_t>(buffer_.size(), data_end_ - position_);
  ssize_t n = -1;
  do {
    n = pread(file_.get(), buffer_.data(), wanted, static_cast<off_t>(position_));
  } while (n < 0 && errno == EINTR);
  if (n < 0) return Failed("it can't be read");
  if (n == 0) return Changed();
  run.offset = position_;
  run.bytes = std::span<const std::byte>(buffer_).first(static_cast<size_t>(n));
  position_ += static_cast<uint64_t>(n);
  return true;
}

}  // namespace sluice
