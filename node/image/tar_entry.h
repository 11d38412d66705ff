#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/image/layer_reader.h"
#include "node/image/pax_header.h"
#include "node/image/sparse_map.h"
#include "node/image/tar_header.h"

namespace sluice {

// What stands before the header of an entry and belongs to it.
struct TarExtensions {
  PaxHeader pax;
  std::string long_path;  // GNU's; none if empty
  std::string long_link;
  bool any = false;
};

// The path of an entry, as it stands in the archive.
std::string TarEntryPath(const TarHeader& header, const TarExtensions& extensions);

// The entry that a header and its extensions make, but for its size. Errors: InvalidArgument (a type that is
// no file, a value that no file can have), ResourceExhausted (too large extended attributes).
absl::StatusOr<LayerEntry> MakeTarEntry(const TarHeader& header, const TarExtensions& extensions,
                                        uint64_t xattr_bytes_max);

// The size of what is stored for an entry that has contents. Errors: InvalidArgument (negative, or no
// number).
absl::StatusOr<uint64_t> TarStoredSize(const TarHeader& header, const PaxHeader& pax);

// Where GNU tar put a sparse file's map in a pax archive: in the extended header (formats 0.0 and 0.1), or
// before the contents (1.0).
enum class PaxSparse : uint8_t { kNone, kInHeader, kInContents };
PaxSparse PaxSparseOf(const PaxHeader& pax);
// The file's size. Errors: as TarStoredSize.
absl::StatusOr<uint64_t> PaxSparseSize(const PaxHeader& pax, uint64_t stored);
// REQUIRES: kInHeader. Errors: those of SparseMap.
absl::StatusOr<SparseMap> ReadPaxSparseMap(const PaxHeader& pax);

}  // namespace sluice
