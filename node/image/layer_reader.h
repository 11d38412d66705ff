#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace sluice {

enum class EntryKind : uint8_t {
  kRegular,
  kDirectory,
  kSymlink,
  kHardLink,
  kCharDevice,
  kBlockDevice,
  kFifo,
  kSocket,
};

// What a file has besides its contents.
struct FileAttributes {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint16_t permissions = 0;  // with set-user-id, set-group-id and sticky: 07777 at most
  int64_t mtime_s = 0;       // since 1970, may be negative
  uint32_t mtime_ns = 0;     // below 1,000,000,000
  // By full name, "security.capability". Names and values are bytes.
  std::map<std::string, std::string> xattrs;

  friend bool operator==(const FileAttributes&, const FileAttributes&) = default;
};

// One entry of a layer, as it stands there: nothing is resolved or cleaned. All texts are bytes.
struct LayerEntry {
  EntryKind kind = EntryKind::kRegular;
  std::string path;
  std::string target;         // of a symbolic link, or the path that a hard link names
  uint32_t device_major = 0;  // of kCharDevice and kBlockDevice
  uint32_t device_minor = 0;
  uint64_t size = 0;  // of kRegular, bytes, holes counted
  FileAttributes attributes;
};

// Some bytes of a file's contents. What lies between two runs, and behind the last, is zeros.
struct ContentRun {
  uint64_t offset = 0;
  std::span<const std::byte> bytes;  // valid until the next call of the reader
};

// A layer's entries, in their order. One thread at a time.
class LayerReader {
 public:
  virtual ~LayerReader() = default;

  // Goes on to the next entry, over what is left of the contents of the one before; false at the layer's
  // end. Errors: InvalidArgument (no sound layer, or an entry that can't be; the message names it),
  // ResourceExhausted (over a bound), and those of reading what is below.
  virtual absl::StatusOr<bool> Next(LayerEntry& entry) = 0;

  // The next run of the contents of the entry last given, a regular file; false at its end. Runs ascend and
  // lie within the entry's size. Errors: as Next.
  virtual absl::StatusOr<bool> NextRun(ContentRun& run) = 0;
};

}  // namespace sluice
