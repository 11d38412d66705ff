#include "node/blob_claim.h"

#include "absl/strings/str_cat.h"
namespace sluice {
std::string FormatBlobClaim(const BlobSpec& spec, const BlobOrigin&) {
  return absl::StrCat("size=", spec.size);
}
}  // namespace sluice
