#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "node/image/layer_reader.h"

namespace sluice {

// Entries of layers, for tests.
inline LayerEntry MakeEntry(EntryKind kind, std::string path, uint16_t permissions) {
  LayerEntry entry;
  entry.kind = kind;
  entry.path = std::move(path);
  entry.attributes.permissions = permissions;
  entry.attributes.mtime_s = 1'000'000'000;
  return entry;
}
inline LayerEntry File(std::string path, uint16_t permissions = 0644) {
  return MakeEntry(EntryKind::kRegular, std::move(path), permissions);
}
inline LayerEntry Directory(std::string path, uint16_t permissions = 0755) {
  return MakeEntry(EntryKind::kDirectory, std::move(path), permissions);
}
inline LayerEntry Symlink(std::string path, std::string target) {
  LayerEntry entry = MakeEntry(EntryKind::kSymlink, std::move(path), 0777);
  entry.target = std::move(target);
  return entry;
}
inline LayerEntry HardLink(std::string path, std::string target) {
  LayerEntry entry = MakeEntry(EntryKind::kHardLink, std::move(path), 0644);
  entry.target = std::move(target);
  return entry;
}
inline LayerEntry Device(std::string path, uint32_t major, uint32_t minor,
                         EntryKind kind = EntryKind::kCharDevice) {
  LayerEntry entry = MakeEntry(kind, std::move(path), 0600);
  entry.device_major = major;
  entry.device_minor = minor;
  return entry;
}
inline LayerEntry WithXattr(LayerEntry entry, const std::string& name, std::string value) {
  entry.attributes.xattrs[name] = std::move(value);
  return entry;
}

}  // namespace sluice
