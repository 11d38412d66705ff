#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <map>
#include <string>

namespace sluice {

struct TarEntry {
  std::string path;
  mode_t type = AE_IFREG;
  std::string content{};  // a symbolic or hard link's target, a file's bytes
  mode_t permissions = 0644;
  int64_t mtime_s = 1000000000;
  int64_t mtime_ns = 0;
  std::map<std::string, std::string> xattrs{};
  dev_t device = 0;
  uid_t uid = 0;
};

inline constexpr mode_t kHardLink = 1;  // as TarEntry::type

enum class Compression { kNone, kGzip, kZstd };

// Writes a layer, in memory first.
class TarWriter {
 public:
  explicit TarWriter(const std::string& path, Compression compression = Compression::kNone)
      : archive_(archive_write_new()) {
    archive_write_set_format_pax(archive_);
    if (compression == Compression::kGzip) archive_write_add_filter_gzip(archive_);
    if (compression == Compression::kZstd) archive_write_add_filter_zstd(archive_);
    archive_write_open_filename(archive_, path.c_str());
  }
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;
  ~TarWriter() { archive_write_free(archive_); }

  TarWriter& Add(const TarEntry& entry) {
    archive_entry* const header = archive_entry_new();
    archive_entry_set_pathname(header, entry.path.c_str());
    archive_entry_set_perm(header, entry.permissions);
    archive_entry_set_mtime(header, entry.mtime_s, static_cast<long>(entry.mtime_ns));
    archive_entry_set_uid(header, entry.uid);
    for (const auto& [name, value] : entry.xattrs) {
      archive_entry_xattr_add_entry(header, name.c_str(), value.data(), value.size());
    }
    if (entry.type == kHardLink) {
      archive_entry_set_filetype(header, AE_IFREG);
      archive_entry_set_hardlink(header, entry.content.c_str());
    } else {
      archive_entry_set_filetype(header, entry.type);
    }
    if (entry.type == AE_IFLNK) archive_entry_set_symlink(header, entry.content.c_str());
    if (entry.type == AE_IFCHR || entry.type == AE_IFBLK) archive_entry_set_rdev(header, entry.device);
    const bool has_data = entry.type == AE_IFREG;
    archive_entry_set_size(header, has_data ? static_cast<int64_t>(entry.content.size()) : 0);
    archive_write_header(archive_, header);
    if (has_data) archive_write_data(archive_, entry.content.data(), entry.content.size());
    archive_entry_free(header);
    return *this;
  }
  TarWriter& Directory(const std::string& path, int64_t mtime_s = 1000000000) {
    return Add({.path = path, .type = AE_IFDIR, .permissions = 0755, .mtime_s = mtime_s});
  }
  TarWriter& File(const std::string& path, const std::string& content) {
    return Add({.path = path, .content = content});
  }

 private:
  archive* const archive_;
};

}  // namespace sluice
