#include "node/blob.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice {

absl::Status ChunkGeometry::Validate(uint64_t size, uint32_t chunk_size) {
  if (!std::has_single_bit(chunk_size) || chunk_size < kChunkSizeMin || chunk_size > kChunkSizeMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk size ", chunk_size, " is not a power of two between 16 KiB and 64 MiB"));
  }
  if (size > uint64_t{chunk_size} * kChunksPerBlobMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a blob of ", size, " bytes has more than 65,536 chunks of ", chunk_size, " bytes"));
  }
  return absl::OkStatus();
}

Blob::Blob(BlobSpec spec)
    : spec_(std::move(spec)), geometry_(spec_.size, spec_.chunk_size), presence_(geometry_.chunk_count()) {}

uint64_t Blob::present_bytes() const {
  if (presence_.present_count() == 0) return 0;
  const ChunkIndex last(geometry_.chunk_count() - 1);
  const uint64_t whole = uint64_t{presence_.present_count()} * geometry_.chunk_size();
  return presence_.IsPresent(last) ? whole - (geometry_.chunk_size() - geometry_.RangeOf(last).length)
                                   : whole;
}

void Blob::Refuse() {
  refused_.store(true, std::memory_order_release);
  presence_.ClearAll();
}

}  // namespace sluice
