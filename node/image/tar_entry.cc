#include "node/image/tar_entry.h"

#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr int64_t kOwnerMax = 0xfffffffe;           // 2^32 - 1 says "leave it" to chown(2)
constexpr int64_t kDeviceMajorMax = (1 << 12) - 1;  // Linux, include/linux/kdev_t.h
constexpr int64_t kDeviceMinorMax = (1 << 20) - 1;
constexpr int64_t kPermissions = 07777;

std::optional<EntryKind> KindOf(const TarHeader& header, std::string_view path) {
  switch (header.type) {
    case '\0':
      return path.ends_with('/') ? EntryKind::kDirectory : EntryKind::kRegular;
    case '0':
    case '7':  // contiguous: a regular file where there is no such kind (POSIX)
    case 'S':
      return EntryKind::kRegular;
    case '1':
      return EntryKind::kHardLink;
    case '2':
      return EntryKind::kSymlink;
    case '3':
      return EntryKind::kCharDevice;
    case '4':
      return EntryKind::kBlockDevice;
    case '5':
    case 'D':  // GNU tar's incremental backups: the contents are a list of names
      return EntryKind::kDirectory;
    case '6':
      return EntryKind::kFifo;
    default:
      return std::nullopt;
  }
}

// A number of the extended header, else the header's.
absl::StatusOr<int64_t> NumberOf(const PaxHeader& pax, std::string_view key, int64_t otherwise) {
  const std::optional<std::string_view> text = pax.Find(key);
  if (!text) return otherwise;
  const std::optional<int64_t> number = ParsePaxNumber(*text);
  if (number) return *number;
  return absl::InvalidArgumentError(
      absl::StrCat("its ", p2p::Abs(key), " is no number of 64 bits: ", p2p::Quoted(*text)));
}

absl::StatusOr<uint32_t> OwnerOf(const PaxHeader& pax, std::string_view key, int64_t otherwise) {
  absl::StatusOr<int64_t> number = NumberOf(pax, key, otherwise);
  if (!number.ok()) return number.status();
  if (*number < 0 || *number > kOwnerMax) {
    return absl::InvalidArgumentError(absl::StrCat("its ", p2p::Abs(key), " is ", *number,
                                                   ", which no file can have; the largest is ", kOwnerMax));
  }
  return static_cast<uint32_t>(*number);
}

absl::StatusOr<uint32_t> DeviceNumberOf(const PaxHeader& pax, std::string_view key, int64_t otherwise,
                                        int64_t max) {
  absl::StatusOr<int64_t> number = NumberOf(pax, key, otherwise);
  if (!number.ok()) return number.status();
  if (*number < 0 || *number > max) {
    return absl::InvalidArgumentError(
        absl::StrCat("a device number of ", *number, ", which Linux has not; the largest is ", max));
  }
  return static_cast<uint32_t>(*number);
}

absl::Status ReadTime(const TarHeader& header, const PaxHeader& pax, FileAttributes& attributes) {
  attributes.mtime_s = header.mtime_s;
  attributes.mtime_ns = 0;
  const std::optional<std::string_view> text = pax.Find("mtime");
  if (!text) return absl::OkStatus();
  const std::optional<PaxTime> time = ParsePaxTime(*text);
  if (!time) return absl::InvalidArgumentError(absl::StrCat("its mtime is no time: ", p2p::Quoted(*text)));
  attributes.mtime_s = time->seconds;
  attributes.mtime_ns = time->nanoseconds;
  return absl::OkStatus();
}

absl::Status ReadAttributes(const TarHeader& header, const PaxHeader& pax, uint64_t xattr_bytes_max,
                            FileAttributes& attributes) {
  absl::StatusOr<uint32_t> uid = OwnerOf(pax, "uid", header.uid);
  if (!uid.ok()) return uid.status();
  absl::StatusOr<uint32_t> gid = OwnerOf(pax, "gid", header.gid);
  if (!gid.ok()) return gid.status();
  absl::StatusOr<std::map<std::string, std::string>> xattrs = pax.Xattrs(xattr_bytes_max);
  if (!xattrs.ok()) return xattrs.status();
  attributes.uid = *uid;
  attributes.gid = *gid;
  attributes.permissions = static_cast<uint16_t>(header.mode & kPermissions);
  attributes.xattrs = *std::move(xattrs);
  return ReadTime(header, pax, attributes);
}

absl::Status ReadDevice(const TarHeader& header, const PaxHeader& pax, LayerEntry& entry) {
  absl::StatusOr<uint32_t> major =
      DeviceNumberOf(pax, "SCHILY.devmajor", header.device_major, kDeviceMajorMax);
  if (!major.ok()) return major.status();
  absl::StatusOr<uint32_t> minor =
      DeviceNumberOf(pax, "SCHILY.devminor", header.device_minor, kDeviceMinorMax);
  if (!minor.ok()) return minor.status();
  entry.device_major = *major;
  entry.device_minor = *minor;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> NotNegative(absl::StatusOr<int64_t> size) {
  if (!size.ok()) return size.status();
  if (*size < 0) return absl::InvalidArgumentError("its size is negative");
  return static_cast<uint64_t>(*size);
}

}  // namespace

std::string TarEntryPath(const TarHeader& header, const TarExtensions& extensions) {
  if (PaxSparseOf(extensions.pax) != PaxSparse::kNone) {
    if (const auto name = extensions.pax.Find("GNU.sparse.name")) return std::string(*name);
  }
  if (!extensions.long_path.empty()) return extensions.long_path;
  return std::string(extensions.pax.Find("path").value_or(header.path));
}

absl::StatusOr<LayerEntry> MakeTarEntry(const TarHeader& header, const TarExtensions& extensions,
                                        uint64_t xattr_bytes_max) {
  const PaxHeader& pax = extensions.pax;
  LayerEntry entry;
  entry.path = TarEntryPath(header, extensions);
  const std::optional<EntryKind> kind = KindOf(header, entry.path);
  if (!kind) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an entry of type ", p2p::Quoted(std::string_view(&header.type, 1)), ", which is no kind of file"));
  }
  entry.kind = *kind;
  if (entry.kind == EntryKind::kSymlink || entry.kind == EntryKind::kHardLink) {
    entry.target = !extensions.long_link.empty()
                       ? extensions.long_link
                       : std::string(pax.Find("linkpath").value_or(header.link_path));
  }
  if (entry.kind == EntryKind::kCharDevice || entry.kind == EntryKind::kBlockDevice) {
    if (absl::Status read = ReadDevice(header, pax, entry); !read.ok()) return read;
  }
  absl::Status read = ReadAttributes(header, pax, xattr_bytes_max, entry.attributes);
  if (!read.ok()) return read;
  return entry;
}

absl::StatusOr<uint64_t> TarStoredSize(const TarHeader& header, const PaxHeader& pax) {
  return NotNegative(NumberOf(pax, "size", header.size));
}

absl::StatusOr<uint64_t> PaxSparseSize(const PaxHeader& pax, uint64_t stored) {
  const std::string_view key = pax.Find("GNU.sparse.size") ? "GNU.sparse.size" : "GNU.sparse.realsize";
  return NotNegative(NumberOf(pax, key, static_cast<int64_t>(stored)));
}

PaxSparse PaxSparseOf(const PaxHeader& pax) {
  const std::optional<std::string_view> major = pax.Find("GNU.sparse.major");
  const std::optional<std::string_view> minor = pax.Find("GNU.sparse.minor");
  if (major == "1" && minor == "0") return PaxSparse::kInContents;
  if (major == "0" && (minor == "0" || minor == "1")) return PaxSparse::kInHeader;
  if (major || minor) return PaxSparse::kNone;  // as Go: a format that nobody knows is not taken apart
  // Before 1.0 there were no such keys.
  return pax.Find("GNU.sparse.map") || !pax.sparse_pairs().empty() ? PaxSparse::kInHeader : PaxSparse::kNone;
}

absl::StatusOr<SparseMap> ReadPaxSparseMap(const PaxHeader& pax) {
  SparseMap map;
  const std::string_view text =
      !pax.sparse_pairs().empty() ? pax.sparse_pairs() : pax.Find("GNU.sparse.map").value_or("");
  if (absl::Status added = map.AddText(text); !added.ok()) return added;
  absl::StatusOr<int64_t> count = NumberOf(pax, "GNU.sparse.numblocks", static_cast<int64_t>(map.added()));
  if (!count.ok()) return count.status();
  if (*count != static_cast<int64_t>(map.added())) {
    return absl::InvalidArgumentError(
        absl::StrCat("its map of holes has ", map.added(), " runs, and it says ", *count));
  }
  return map;
}

}  // namespace sluice
