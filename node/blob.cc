#include "node/blob.h"

#include <utility>

#include "absl/hash/hash.h"
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

uint16_t TagOf(const BlobOrigin& origin) {
  return static_cast<uint16_t>(absl::HashOf(origin.registry, origin.repository));
}

Blob::Blob(BlobSpec spec) : Blob(BlobKey(spec.digest), spec) {}

Blob::Blob(const BlobKey& key, BlobSpec spec)
    : key_(key),
      digest_(spec.digest),
      geometry_(spec.size, spec.chunk_size),
      facts_(std::make_shared<const BlobSpec>(std::move(spec))),
      presence_(geometry_.chunk_count()) {}

std::shared_ptr<const BlobSpec> Blob::facts() const {
  const std::lock_guard lock(facts_mutex_);
  return facts_;
}

void Blob::SetFacts(BlobSpec facts) {
  auto fresh = std::make_shared<const BlobSpec>(std::move(facts));
  const std::lock_guard lock(facts_mutex_);
  facts_.swap(fresh);
}

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
