#include "node/image/layer_flattener.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr size_t kReadBytes = 1 << 20;
constexpr std::string_view kWhiteoutPrefix = ".wh.";
constexpr std::string_view kOpaqueWhiteout = ".wh..wh..opq";
constexpr std::string_view kReservedPrefix = ".wh..wh.";

// libarchive turns names into the thread's character set and mangles what does not fit; in UTF-8 all does.
class Utf8Locale {
 public:
  Utf8Locale() : locale_(newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)), previous_(uselocale(locale_)) {}
  Utf8Locale(const Utf8Locale&) = delete;
  Utf8Locale& operator=(const Utf8Locale&) = delete;
  ~Utf8Locale() {
    uselocale(previous_);
    if (locale_ != nullptr) freelocale(locale_);
  }

 private:
  const locale_t locale_;
  const locale_t previous_;
};

}  // namespace

// A layer's archive and the entry it stands at.
class LayerFlattener::Archive {
 public:
  explicit Archive(int fd) : archive_(archive_read_new()) {
    archive_read_support_format_tar(archive_);
    archive_read_support_format_empty(archive_);
    archive_read_support_filter_none(archive_);
    archive_read_support_filter_gzip(archive_);
    archive_read_support_filter_zstd(archive_);
    opened_ = archive_read_open_fd(archive_, fd, kReadBytes) == ARCHIVE_OK;
  }
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;
  ~Archive() { archive_read_free(archive_); }

  // False at the end.
  absl::StatusOr<bool> Next() {
    const int result = opened_ ? archive_read_next_header(archive_, &entry_) : ARCHIVE_FATAL;
    if (result == ARCHIVE_EOF) return false;
    // A warning is about a name or a value that could not be taken as it is, and so would be another one.
    if (result != ARCHIVE_OK) return Failed();
    return true;
  }

  // The next run of bytes of the entry; false at its end.
  absl::StatusOr<bool> ReadBlock(std::string_view* bytes, uint64_t* offset) {
    const void* data = nullptr;
    size_t size = 0;
    la_int64_t at = 0;
    const int result = archive_read_data_block(archive_, &data, &size, &at);
    if (result == ARCHIVE_EOF) return false;
    if (result != ARCHIVE_OK || at < 0) return Failed();
    *bytes = {static_cast<const char*>(data), size};
    *offset = static_cast<uint64_t>(at);
    return true;
  }

  absl::Status Failed() const {
    const char* const why = archive_error_string(archive_);
    return absl::InvalidArgumentError(
        absl::StrCat("the layer is no sound tar archive: ", why != nullptr ? why : "it is damaged"));
  }

  uint64_t compressed_bytes() const { return static_cast<uint64_t>(archive_filter_bytes(archive_, -1)); }
  uint64_t stream_bytes() const { return static_cast<uint64_t>(archive_filter_bytes(archive_, 0)); }
  archive_entry* entry() const { return entry_; }
  std::string_view path() const { return OrEmpty(archive_entry_pathname(entry_)); }
  std::string_view hard_link() const { return OrEmpty(archive_entry_hardlink(entry_)); }
  std::string_view symlink() const { return OrEmpty(archive_entry_symlink(entry_)); }

 private:
  static std::string_view OrEmpty(const char* text) { return text == nullptr ? std::string_view() : text; }

  archive* const archive_;
  archive_entry* entry_ = nullptr;
  bool opened_ = false;
};

namespace {

absl::StatusOr<FileMetadata> ReadMetadata(archive_entry* entry, uint64_t xattr_bytes_max) {
  FileMetadata metadata;
  metadata.uid = static_cast<uid_t>(archive_entry_uid(entry));
  metadata.gid = static_cast<gid_t>(archive_entry_gid(entry));
  metadata.permissions = archive_entry_perm(entry);
  metadata.mtime = {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  uint64_t bytes = 0;
  archive_entry_xattr_reset(entry);
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
    bytes += std::string_view(name).size() + size;
    if (bytes > xattr_bytes_max) {
      return absl::ResourceExhaustedError(
          absl::StrCat("its extended attributes have more than ", xattr_bytes_max, " bytes"));
    }
    metadata.xattrs[name] = std::string(static_cast<const char*>(value), size);
  }
  return metadata;
}

absl::Status WriteAt(int fd, std::string_view bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, "the file can't be written");
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status At(std::string_view path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("layer entry ", p2p::Quoted(path), ": ", status.message()));
}

}  // namespace

absl::StatusOr<LayerFlattener> LayerFlattener::Open(const std::string& directory, FlattenLimits limits) {
  absl::StatusOr<RootedTree> tree = RootedTree::Open(directory);
  if (!tree.ok()) return tree.status();
  return LayerFlattener(*std::move(tree), limits);
}

absl::Status LayerFlattener::Apply(int layer_fd) {
  const Utf8Locale locale;
  Archive archive(layer_fd);
  tree_.BeginLayer();
  layer_bytes_ = 0;
  while (true) {
    absl::StatusOr<bool> more = archive.Next();
    if (!more.ok()) return more.status();
    if (!*more) return absl::OkStatus();
    if (absl::Status applied = ApplyEntry(archive); !applied.ok()) return At(archive.path(), applied);
  }
}

absl::Status LayerFlattener::CheckLimits(const Archive& archive) const {
  if (entries_ > limits_.entries_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the image has more than ", limits_.entries_max, " files"));
  }
  if (bytes_ > limits_.bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the image unpacks to more than ", limits_.bytes_max, " bytes"));
  }
  const uint64_t allowed = std::max(limits_.free_bytes, archive.compressed_bytes() * limits_.ratio_max);
  if (std::max(layer_bytes_, archive.stream_bytes()) > allowed) {
    return absl::ResourceExhaustedError(absl::StrCat("the layer unpacks to more than ", limits_.ratio_max,
                                                     " times its size, as a decompression bomb does"));
  }
  return absl::OkStatus();
}

absl::Status LayerFlattener::ApplyEntry(Archive& archive) {
  ++entries_;
  // The size that the header claims: of a sparse file only the data is in the archive.
  const la_int64_t claimed = archive_entry_size(archive.entry());
  if (claimed < 0) return absl::InvalidArgumentError("its size is negative");
  const bool has_data = archive_entry_filetype(archive.entry()) == AE_IFREG && archive.hard_link().empty();
  const uint64_t size = has_data ? static_cast<uint64_t>(claimed) : 0;
  if (size > limits_.bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("the file has more than ", limits_.bytes_max, " bytes"));
  }
  bytes_ += size;
  layer_bytes_ += size;
  if (absl::Status within = CheckLimits(archive); !within.ok()) return within;

  absl::StatusOr<RootedTree::Place> place = tree_.Locate(archive.path());
  if (!place.ok()) return place.status();
  if (std::string_view(place->name).starts_with(kWhiteoutPrefix)) return ApplyWhiteout(*place);
  return MakeEntry(archive, *place);
}

absl::Status LayerFlattener::ApplyWhiteout(const RootedTree::Place& place) {
  if (place.name == kOpaqueWhiteout) return tree_.RemoveLowerSiblings(place);
  if (std::string_view(place.name).starts_with(kReservedPrefix)) return absl::OkStatus();  // of the aufs era
  RootedTree::Place hidden = place;
  hidden.name = place.name.substr(kWhiteoutPrefix.size());
  if (hidden.name.empty() || hidden.name == "." || hidden.name == "..") {
    return absl::InvalidArgumentError("a whiteout that names no file");
  }
  return tree_.RemoveLower(hidden);
}

absl::Status LayerFlattener::MakeEntry(Archive& archive, const RootedTree::Place& place) {
  if (!archive.hard_link().empty()) {
    absl::StatusOr<RootedTree::Place> target = tree_.Locate(archive.hard_link());
    if (!target.ok()) return target.status();
    return tree_.MakeHardLink(place, *target);  // owner, mode and times are its target's
  }
  absl::StatusOr<FileMetadata> metadata = ReadMetadata(archive.entry(), limits_.xattr_bytes_max);
  if (!metadata.ok()) return metadata.status();
  absl::Status made;
  switch (const auto type = archive_entry_filetype(archive.entry())) {
    case AE_IFDIR:
      made = tree_.MakeDirectory(place);
      break;
    case AE_IFREG:
      made = WriteFile(archive, place);
      break;
    case AE_IFLNK:
      made = tree_.MakeSymlink(place, std::string(archive.symlink()));
      break;
    case AE_IFCHR:
    case AE_IFBLK:
      made = tree_.MakeNode(place, type, archive_entry_rdev(archive.entry()));
      break;
    case AE_IFIFO:
    case AE_IFSOCK:
      made = tree_.MakeNode(place, type, 0);
      break;
    default:
      return absl::InvalidArgumentError("a kind of entry that no file system has");
  }
  if (!made.ok()) return made;
  return tree_.SetMetadata(place, *metadata);
}

absl::Status LayerFlattener::WriteFile(Archive& archive, const RootedTree::Place& place) {
  absl::StatusOr<UniqueFd> file = tree_.MakeFile(place);
  if (!file.ok()) return file.status();
  const uint64_t size = static_cast<uint64_t>(archive_entry_size(archive.entry()));
  while (true) {
    std::string_view bytes;
    uint64_t offset = 0;
    absl::StatusOr<bool> more = archive.ReadBlock(&bytes, &offset);
    if (!more.ok()) return more.status();
    if (!*more) break;
    if (offset > size || bytes.size() > size - offset) {
      return absl::InvalidArgumentError("it has more bytes than its header says");
    }
    if (absl::Status within = CheckLimits(archive); !within.ok()) return within;
    if (absl::Status written = WriteAt(file->get(), bytes, offset); !written.ok()) return written;
  }
  if (ftruncate(file->get(), static_cast<off_t>(size)) != 0) {
    return absl::ErrnoToStatus(errno, "the file can't be given its size");
  }
  return absl::OkStatus();
}

}  // namespace sluice
