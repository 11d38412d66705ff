#include "node/blob_claim.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "taken.h"

using sluice::BlobClaim;
using sluice::BlobOrigin;

namespace {

sluice::fuzz::Parser parser("claims of blobs");

void Require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

// What is taken is a blob that can be, and is read again as it is written.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const sluice::Digest digest;
  const BlobOrigin origin{"registry.example", "team/app"};
  const absl::StatusOr<BlobClaim> claim = sluice::ParseBlobClaim(text, digest, origin);
  if (!claim.ok()) return 0;
  parser.Took();
  const sluice::BlobSpec& spec = claim->spec;
  Require(spec.size > 0 && sluice::ChunkGeometry::Validate(spec.size, spec.chunk_size).ok());
  Require(spec.digest == digest && spec.origins.size() == 1 && spec.origins[0] == origin);
  const std::string written = sluice::FormatBlobClaim(spec, origin, claim->access);
  Require(written.size() <= sluice::kBlobClaimBytesMax);
  const absl::StatusOr<BlobClaim> again = sluice::ParseBlobClaim(written, digest, origin);
  Require(again.ok() && again->access == claim->access);
  Require(again->spec.size == spec.size && again->spec.chunk_size == spec.chunk_size);
  Require(again->spec.root == spec.root && again->spec.stored == spec.stored);
  return 0;
}
