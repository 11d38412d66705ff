#include "node/daemon/login_preparer.h"

#include <utility>

namespace sluice {

LoginPreparer::LoginPreparer(const Parts& parts, const Grant& grant)
    : registry_(parts.registry.By(grant)),
      from_registry_(parts.clock, parts.io, *registry_, Duration::zero()),
      documents_(from_registry_, nullptr, ImageDocuments::Tags::kFromRegistry),
      resolver_(*registry_, documents_, parts.allowed, parts.store, nullptr, nullptr, nullptr,
                parts.ask_policy),
      origin_({*registry_, parts.ledger, parts.clock, parts.io, parts.telemetry}),
      preparer_({parts.clock, parts.store, parts.fills, parts.verifier, resolver_, documents_, parts.cache,
                 parts.ledger, nullptr, origin_,
                 p2p::StoredReaderParts{*registry_, parts.clock, parts.telemetry}, parts.discard_copies,
                 StoreImagePreparer::Parts::ByRight{grant, {parts.clock, parts.core, parts.cache}}}) {}

absl::StatusOr<std::string> LoginPreparer::Check(const std::string& reference) const {
  return preparer_.Check(reference);
}

absl::StatusOr<ResolvedImage> LoginPreparer::Resolve(const std::string& reference,
                                                     const p2p::Platform& platform) {
  return preparer_.Resolve(reference, platform);
}

absl::StatusOr<PreparedImage> LoginPreparer::Prepare(const ResolvedImage& image,
                                                     const PrepareBounds& bounds) {
  return preparer_.Prepare(image, bounds);
}

absl::StatusOr<BlobSpec> LoginPreparer::FindBlob(const std::string& reference, uint64_t size) {
  return preparer_.FindBlob(reference, size);
}

absl::StatusOr<Blob::Lease> LoginPreparer::PrepareBlob(const BlobSpec& blob, const PrepareBounds& bounds) {
  return preparer_.PrepareBlob(blob, bounds);
}

}  // namespace sluice
