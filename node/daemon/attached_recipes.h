#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/cancel_check.h"
#include "node/daemon/image_documents.h"
#include "node/digest.h"
#include "p2p/registry/manifest.h"

namespace sluice {

// The recipes that a registry has attached to one image, as referrers of its manifest. They are listed once,
// from when this is made, and those that are wanted are fetched at the same time.
//
// One thread at a time. Fetch blocks on the registry, or on the home of what is asked for.
class AttachedRecipes {
 public:
  static constexpr size_t kReferrersMax = 16;  // looked into
  static constexpr size_t kTriedMax = 4;       // of one blob

  // `documents` outlives this, and answers what it was asked for before it ends.
  AttachedRecipes(ImageDocuments& documents, const BlobOrigin& origin, const Digest& manifest);

  // For each of `specs`, the encoded recipe that it binds. Errors: NotFound (none that matches the root),
  // Cancelled, those of ImageDocuments. REQUIRES: each has a root
  std::vector<absl::StatusOr<std::string>> Fetch(std::span<const BlobSpec> specs,
                                                 const CancelCheck& cancelled = {});

  // Documents that came one after the other until Fetch had ended; those at the same time count as one.
  uint32_t round_trips() const { return round_trips_; }

 private:
  class Listing;

  ImageDocuments& documents_;
  const BlobOrigin origin_;
  const std::shared_ptr<Listing> listing_;
  uint32_t round_trips_ = 0;
};

}  // namespace sluice
