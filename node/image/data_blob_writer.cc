#include "node/image/data_blob_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/geometry.h"
#include "node/image/file_bytes.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

constexpr size_t kWriteBytes = 1 << 20;
constexpr uint64_t kBlocksMax = kBlobSizeMax / kBlockBytes;

bool IsZero(std::span<const std::byte> bytes) {
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

uint64_t RoundUp(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

PaddedSize PadDataBlob(uint64_t bytes, std::optional<uint32_t> chunk_size) {
  uint64_t chunk = chunk_size.value_or(ChunkGeometry::ChunkSizeFor(bytes));
  chunk = std::min(chunk, std::bit_ceil(std::max<uint64_t>(bytes, kChunkSizeMin)));
  return {RoundUp(bytes, chunk), static_cast<uint32_t>(chunk)};
}

absl::StatusOr<DataBlobWriter> DataBlobWriter::Open(const std::string& path, uint32_t layer,
                                                    ContentTable& contents) {
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be made"));
  return DataBlobWriter(path, std::move(file), layer, contents);
}

DataBlobWriter::DataBlobWriter(std::string path, UniqueFd file, uint32_t layer, ContentTable& contents)
    : path_(std::move(path)),
      file_(std::move(file)),
      layer_(layer),
      contents_(contents),
      piece_(kPieceBytes) {
  unwritten_.reserve(kWriteBytes + kPieceBytes);
}

absl::StatusOr<ContentId> DataBlobWriter::Add(LayerReader& reader, uint64_t size) {
  if (size == 0) return ContentId();
  extents_.clear();
  piece_index_ = 0;
  while (true) {
    ContentRun run;
    absl::StatusOr<bool> more = reader.NextRun(run);
    if (!more.ok()) return more.status();
    if (!*more) break;
    if (absl::Status appended = Append(run, size); !appended.ok()) return appended;
  }
  if (absl::Status ended = EndPiece(size); !ended.ok()) return ended;
  const uint64_t pieces = RoundUp(size, kPieceBytes) / kPieceBytes;
  if (piece_index_ < pieces) Note(Extent::kHole, pieces - piece_index_);
  return contents_.Add(layer_, size, extents_);
}

absl::Status DataBlobWriter::Append(const ContentRun& run, uint64_t size) {
  uint64_t offset = run.offset;
  std::span<const std::byte> bytes = run.bytes;
  if (offset > size || bytes.size() > size - offset)
    return absl::InvalidArgumentError("it has more bytes than its header says");
  while (!bytes.empty()) {
    const uint64_t index = offset / kPieceBytes;
    if (index != piece_index_) {
      if (index < piece_index_) return absl::InvalidArgumentError("its bytes are not in their order");
      if (absl::Status ended = EndPiece(size); !ended.ok()) return ended;
      if (index > piece_index_) Note(Extent::kHole, index - piece_index_);
      piece_index_ = index;
    }
    const size_t at = offset % kPieceBytes;
    const size_t n = std::min<size_t>(bytes.size(), kPieceBytes - at);
    std::memcpy(piece_.data() + at, bytes.data(), n);
    piece_has_bytes_ = true;
    offset += n;
    bytes = bytes.subspan(n);
  }
  return absl::OkStatus();
}

// Does nothing for a piece that no run has touched.
absl::Status DataBlobWriter::EndPiece(uint64_t size) {
  if (!piece_has_bytes_) return absl::OkStatus();
  const uint64_t left = size - piece_index_ * kPieceBytes;
  const std::span<std::byte> used =
      std::span(piece_).first(RoundUp(std::min<uint64_t>(left, kPieceBytes), kBlockBytes));
  absl::StatusOr<uint32_t> block = IsZero(used) ? Extent::kHole : Store(used);
  if (!block.ok()) return block.status();
  Note(*block, 1);
  std::fill(used.begin(), used.end(), std::byte{0});
  piece_has_bytes_ = false;
  ++piece_index_;
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> DataBlobWriter::Store(std::span<const std::byte> piece) {
  const auto [known, is_new] = known_.try_emplace(p2p::Sha256::Of(piece), blocks_);
  if (!is_new) return known->second;
  if (blocks_ + piece.size() / kBlockBytes > kBlocksMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the files of one layer have more than ", kBlobSizeMax, " bytes"));
  }
  unwritten_.insert(unwritten_.end(), piece.begin(), piece.end());
  blocks_ += static_cast<uint32_t>(piece.size() / kBlockBytes);
  if (unwritten_.size() >= kWriteBytes) {
    if (absl::Status flushed = Flush(); !flushed.ok()) return flushed;
  }
  return known->second;
}

// Joins what follows the extent before without a gap.
void DataBlobWriter::Note(uint32_t block, uint64_t pieces) {
  constexpr uint64_t kPiecesMax = 0xffffffff;
  if (!extents_.empty()) {
    Extent& last = extents_.back();
    const bool follows =
        block == Extent::kHole
            ? last.block == Extent::kHole
            : last.block != Extent::kHole && last.block + uint64_t{last.pieces} * kPieceBlocks == block;
    if (follows && last.pieces + pieces <= kPiecesMax) {
      last.pieces += static_cast<uint32_t>(pieces);
      return;
    }
  }
  extents_.push_back({block, static_cast<uint32_t>(pieces)});
}

absl::Status DataBlobWriter::Flush() {
  absl::Status written = WriteAll(file_.get(), unwritten_, path_);
  unwritten_.clear();
  return written;
}

absl::StatusOr<std::optional<DataBlob>> DataBlobWriter::Finish(std::optional<uint32_t> chunk_size) {
  if (absl::Status flushed = Flush(); !flushed.ok()) return flushed;
  known_.clear();
  if (blocks_ == 0) return std::nullopt;
  const PaddedSize padded = PadDataBlob(size(), chunk_size);
  if (absl::Status valid = ChunkGeometry::Validate(padded.size, padded.chunk_size); !valid.ok()) return valid;
  if (ftruncate(file_.get(), static_cast<off_t>(padded.size)) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, " can't be given its size"));
  p2p::RecipeBuilder builder(padded.chunk_size);
  absl::Status read = ReadAll(file_.get(), path_, [&](std::span<const std::byte> bytes) {
    builder.Update(bytes);
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  absl::StatusOr<p2p::Recipe> recipe = builder.Finish();
  if (!recipe.ok()) return recipe.status();
  return DataBlob{path_, *std::move(recipe)};
}

}  // namespace sluice
