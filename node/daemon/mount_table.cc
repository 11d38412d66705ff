#include "node/daemon/mount_table.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "index/file_descriptor.h"
#include "node/daemon/file_stamp.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

json ToJson(const StoredForm& stored) {
  json out = {{"digest", stored.digest.ToString()}, {"size", stored.size}};
  if (stored.seek_table) {
    const SeekTablePlace& place = *stored.seek_table;
    out["seekTable"] = {
        {"offset", place.range.offset}, {"size", place.range.length}, {"digest", place.digest.ToString()}};
  }
  return out;
}

json ToJson(const MountedBlob& blob) {
  const BlobSpec& spec = blob.spec;
  json origins = json::array();
  for (const BlobOrigin& origin : spec.origins) {
    json entry = {{"registry", origin.registry}, {"repository", origin.repository}};
    if (const StoredForm* const stored = spec.StoredAt(origin)) entry["stored"] = ToJson(*stored);
    origins.push_back(std::move(entry));
  }
  json out = {{"digest", spec.digest.ToString()},
              {"size", spec.size},
              {"chunkSize", spec.chunk_size},
              {"origins", std::move(origins)}};
  if (spec.root) out["root"] = spec.root->Hex();
  if (!blob.key.IsOf(spec.digest)) out["key"] = blob.key.FileName();
  return out;
}

json ToJson(const MountEntry& entry) {
  json blobs = json::array();
  for (const MountedBlob& blob : entry.blobs) blobs.push_back(ToJson(blob));
  json out = {{"mountPoint", entry.mount_point},       {"reference", entry.reference},
              {"manifest", entry.manifest.ToString()}, {"backend", entry.backend},
              {"bootstrap", ToJson(entry.bootstrap)},  {"blobs", std::move(blobs)}};
  if (entry.instance.known()) {
    out["instance"] = {
        {"name", entry.instance.name}, {"inode", entry.instance.inode}, {"boot", entry.instance.boot}};
    out["device"] = entry.device;
  }
  return out;
}

json ToJson(const std::vector<MountEntry>& entries) {
  json out = json::array();
  for (const MountEntry& entry : entries) out.push_back(ToJson(entry));
  return out;
}

// The readers throw what is caught in Load.
Digest DigestFrom(absl::StatusOr<Digest> digest) {
  if (!digest.ok()) throw std::runtime_error(std::string(digest.status().message()));
  return *digest;
}

StoredForm StoredFrom(const json& in) {
  StoredForm stored;
  stored.digest = DigestFrom(Digest::Parse(in.at("digest").get<std::string>()));
  stored.size = in.at("size").get<uint64_t>();
  if (!in.contains("seekTable")) return stored;
  const json& place = in.at("seekTable");
  stored.seek_table = {{place.at("offset").get<uint64_t>(), place.at("size").get<uint64_t>()},
                       DigestFrom(Digest::Parse(place.at("digest").get<std::string>()))};
  const ByteRange& range = stored.seek_table->range;
  if (range.length == 0 || range.length > stored.size || range.offset != stored.size - range.length)
    throw std::runtime_error("a seek table is not the last thing that is stored");
  return stored;
}

MountedBlob BlobFrom(const json& in) {
  BlobSpec spec;
  spec.digest = DigestFrom(Digest::Parse(in.at("digest").get<std::string>()));
  spec.size = in.at("size").get<uint64_t>();
  spec.chunk_size = in.at("chunkSize").get<uint32_t>();
  if (in.contains("root")) spec.root = DigestFrom(Digest::ParseHex(in.at("root").get<std::string>()));
  for (const json& entry : in.at("origins")) {
    const BlobOrigin origin{entry.at("registry").get<std::string>(),
                            entry.at("repository").get<std::string>()};
    // Tables of before have none: all was plain.
    if (entry.contains("stored")) spec.stored.emplace(origin, StoredFrom(entry.at("stored")));
    spec.origins.push_back(origin);
  }
  const absl::Status valid = ChunkGeometry::Validate(spec.size, spec.chunk_size);
  if (!valid.ok()) throw std::runtime_error(std::string(valid.message()));
  const BlobKey key =
      in.contains("key") ? DigestFrom(Digest::ParseHex(in.at("key").get<std::string>())) : spec.digest;
  return {key, std::move(spec)};
}

MountEntry EntryFrom(const json& in) {
  MountEntry entry;
  entry.mount_point = in.at("mountPoint").get<std::string>();
  entry.reference = in.at("reference").get<std::string>();
  entry.manifest = DigestFrom(Digest::Parse(in.at("manifest").get<std::string>()));
  entry.backend = in.at("backend").get<std::string>();
  entry.bootstrap = BlobFrom(in.at("bootstrap"));
  for (const json& blob : in.at("blobs")) entry.blobs.push_back(BlobFrom(blob));
  if (in.contains("instance")) {
    const json& instance = in.at("instance");
    entry.instance = {instance.at("name").get<std::string>(), instance.at("inode").get<uint64_t>(),
                      instance.at("boot").get<std::string>()};
    entry.device = in.value("device", uint64_t{0});
  }
  return entry;
}

absl::Status DiskError(const char* what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno)));
}

// With its stamp.
absl::Status WriteSynced(const std::string& path, json root) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return DiskError("create", path);
  root["file"] = StampOf(fd);
  const std::string text = root.dump(2) + "\n";
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = write(fd, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    written += static_cast<size_t>(n);
  }
  absl::Status status =
      written == text.size() && fsync(fd) == 0 ? absl::OkStatus() : DiskError("write", path);
  close(fd);
  return status;
}

absl::Status SyncFolder(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return DiskError("open", folder);
  const absl::Status status = fsync(fd) == 0 ? absl::OkStatus() : DiskError("sync", folder);
  close(fd);
  return status;
}

}  // namespace

absl::StatusOr<MountTable> MountTable::Load(std::string path) {
  MountTable table(std::move(path));
  std::error_code error;
  const auto size = std::filesystem::file_size(table.path_, error);
  if (error == std::errc::no_such_file_or_directory) return table;
  if (error) return absl::UnavailableError(absl::StrCat("cannot read ", table.path_, ": ", error.message()));
  if (size > kBytesMax)
    return absl::DataLossError(absl::StrCat(table.path_, " is too large to be a table of mounts"));
  std::ifstream in(table.path_, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  try {
    const json root = json::parse(text);
    if (root.at("version").get<int>() != kVersion) throw std::runtime_error("it is of another version");
    for (const json& entry : root.at("mounts")) table.entries_.push_back(EntryFrom(entry));
    // Tables of before have none.
    for (const json& entry : root.value("detached", json::array()))
      table.detached_.push_back(EntryFrom(entry));
    const index::FileDescriptor file(open(table.path_.c_str(), O_RDONLY | O_CLOEXEC));
    table.is_copy_ = file.valid() && !HasStamp(file.get(), root.value("file", json()));
  } catch (const std::exception& e) {
    return absl::DataLossError(
        absl::StrCat("the table of mounts ", table.path_, " can't be read: ", e.what(),
                     ". Unmount what \"findmnt -t erofs\" shows of sluice's, then remove the file"));
  }
  if (table.is_copy_) table.KeepWhatLives();
  return table;
}

// Of another moment it tells nothing of what is mounted now, but for file systems that it knows by what no
// other one has.
void MountTable::KeepWhatLives() {
  for (std::vector<MountEntry>* const entries : {&entries_, &detached_}) {
    std::erase_if(*entries, [](const MountEntry& entry) {
      return !entry.instance.known() || !ondemand::Lives(entry.instance);
    });
  }
}

const MountEntry* MountTable::Find(const std::string& mount_point) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const MountEntry& e) { return e.mount_point == mount_point; });
  return found == entries_.end() ? nullptr : &*found;
}

absl::Status MountTable::Add(MountEntry entry) {
  std::vector<MountEntry> entries = entries_;
  std::erase_if(entries, [&](const MountEntry& e) { return e.mount_point == entry.mount_point; });
  entries.push_back(std::move(entry));
  const absl::Status saved = Save(entries);
  if (saved.ok()) entries_ = std::move(entries);
  return saved;
}

absl::Status MountTable::Remove(const std::string& mount_point) {
  std::erase_if(entries_, [&](const MountEntry& e) { return e.mount_point == mount_point; });
  return Save();
}

absl::Status MountTable::Identify(const std::string& mount_point, const ondemand::ErofsInstance& instance,
                                  uint64_t device) {
  for (MountEntry& entry : entries_) {
    if (entry.mount_point != mount_point) continue;
    entry.instance = instance;
    entry.device = device;
  }
  return Save();
}

absl::Status MountTable::Move(const std::string& from, const std::string& to) {
  for (MountEntry& entry : entries_) {
    if (entry.mount_point == from) entry.mount_point = to;
  }
  return Save();
}

absl::Status MountTable::Detach(const std::string& mount_point) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const MountEntry& e) { return e.mount_point == mount_point; });
  detached_.push_back(std::move(*found));
  entries_.erase(found);
  return Save();
}

absl::Status MountTable::RemoveDetached(const ondemand::ErofsInstance& instance) {
  std::erase_if(detached_, [&](const MountEntry& e) { return e.instance == instance; });
  return Save();
}

absl::Status MountTable::Save(const std::vector<MountEntry>& entries) const {
  const json root = {{"version", kVersion}, {"mounts", ToJson(entries)}, {"detached", ToJson(detached_)}};
  const std::string fresh = path_ + ".new";
  absl::Status status = WriteSynced(fresh, root);
  if (status.ok() && std::rename(fresh.c_str(), path_.c_str()) != 0) status = DiskError("replace", path_);
  return status.ok() ? SyncFolder(path_) : status;
}

}  // namespace sluice
