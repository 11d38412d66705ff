#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/image/byte_stream.h"
#include "node/image/layer_limits.h"
#include "node/image/layer_reader.h"
#include "node/image/notices.h"
#include "node/image/pax_header.h"
#include "node/image/sparse_map.h"
#include "node/image/tar_entry.h"
#include "node/image/tar_header.h"

namespace sluice {

// Of an extended header, and of a long name.
inline constexpr uint64_t kTarExtensionBytesMax = 1 << 20;

// The entries of a tar archive: V7, ustar, GNU, star, pax; sparse files as GNU tar writes them. Names are
// bytes, and no value is narrowed. Where readers differ it does as Go's archive/tar, with which container
// runtimes read layers:
// - of extended headers in a row the last counts, and GNU's long names before pax ones;
// - global headers, ACLs as text and SELinux labels are read and not applied, which notices say;
// - owners are the numbers, not the names;
// - only V7's type '\0' is a directory when its path ends in '/', and links and directories have no contents,
//   whatever size they name;
// - data behind the archive's end is not looked at. The last block's padding and the end itself may be
//   missing, as some tools leave them out; an entry or its contents may not.
// Stricter than it: an owner must be one that Linux has, a device too, and an extended header must be
// followed by an entry. It keeps extended attributes of no bytes, as Go's Header.PAXRecords do.
class TarReader final : public LayerReader {
 public:
  // `archive` and `usage` outlive this; `usage` counts on.
  TarReader(ByteStream& archive, const LayerLimits& limits, LayerUsage& usage);

  // Errors stay; each names the entry, or the place in the archive.
  absl::StatusOr<bool> Next(LayerEntry& entry) override;
  absl::StatusOr<bool> NextRun(ContentRun& run) override;

  // What entries so far said and was not taken.
  const Notices& notices() const { return notices_; }

 private:
  absl::StatusOr<bool> ReadEntry(LayerEntry& entry);
  // To block_; false at the archive's end.
  absl::StatusOr<bool> ReadHeader();
  // Takes a header that is no entry itself, with its body. Whether it is one.
  absl::StatusOr<bool> ReadExtension(const TarHeader& header, TarExtensions& extensions);
  absl::StatusOr<std::vector<char>> ReadExtensionBody(const TarHeader& header);
  absl::Status BeginEntry(const TarHeader& header, const TarExtensions& extensions, LayerEntry& entry);
  // These return the file's size.
  absl::StatusOr<uint64_t> BeginContents(const PaxHeader& pax);
  absl::StatusOr<uint64_t> BeginOldSparse(const TarHeader& header);
  absl::StatusOr<uint64_t> BeginSparse(SparseMap map, uint64_t size);
  absl::StatusOr<SparseMap> ReadStoredSparseMap();
  absl::StatusOr<bool> ReadRun(ContentRun& run);
  absl::Status SkipContents();

  // Makes so many bytes available in the buffer, fewer only at the archive's end. REQUIRES: at most
  // kTarBlockBytes.
  absl::Status Fill(size_t wanted);
  size_t available() const { return end_ - begin_; }
  std::span<const std::byte> Take(uint64_t bytes_max);  // of what is available
  absl::StatusOr<bool> TakeBlock();                     // to block_; false at the archive's end
  absl::Status Named(const absl::Status& status) const;

  ByteStream& archive_;
  const LayerLimits limits_;
  LayerUsage& usage_;

  std::vector<std::byte> buffer_;
  size_t begin_ = 0;  // of what was not taken yet
  size_t end_ = 0;
  bool archive_ended_ = false;
  uint64_t offset_ = 0;  // in the archive, of begin_

  std::array<std::byte, kTarBlockBytes> block_{};  // the header last read, or a block that goes on with it
  uint64_t header_offset_ = 0;                     // in the archive
  std::string path_;                               // of the entry last begun
  bool in_entry_ = false;                          // else between it and the next
  bool readable_ = false;                          // it is a regular file
  uint64_t stored_left_ = 0;                       // bytes of its contents in the archive
  uint64_t padding_ = 0;                           // behind them
  uint64_t position_ = 0;                          // in the file, behind the run last given
  std::optional<SparseMap> sparse_;
  size_t sparse_run_ = 0;  // where the next bytes belong
  Notices notices_;
  bool ended_ = false;
  absl::Status status_;
};

}  // namespace sluice
