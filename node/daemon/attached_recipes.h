#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/daemon/image_documents.h"
#include "node/digest.h"
#include "p2p/registry/manifest.h"

namespace sluice {

// The recipes that a registry has attached to one image, as referrers of its manifest. They are listed once,
// and those that are wanted are fetched at the same time.
//
// One thread at a time; blocks on the registry, or on the home of what is asked for.
class AttachedRecipes {
 public:
  static constexpr size_t kReferrersMax = 16;  // looked into
  static constexpr size_t kTriedMax = 4;       // of one blob

  // `documents` outlives this.
  AttachedRecipes(ImageDocuments& documents, const BlobOrigin& origin, const Digest& manifest)
      : documents_(documents), origin_(origin), manifest_(manifest) {}

  // For each of `specs`, the encoded recipe that it binds. Errors: NotFound (none that matches the root),
  // those of ImageDocuments. REQUIRES: each has a root
  std::vector<absl::StatusOr<std::string>> Fetch(std::span<const BlobSpec> specs);

  // Documents that were asked for so far, one after the other; those at the same time count as one.
  uint32_t round_trips() const { return round_trips_; }

 private:
  absl::Status List();
  void ListOf(const Digest& referrer, absl::Status& last);

  ImageDocuments& documents_;
  const BlobOrigin origin_;
  const Digest manifest_;
  uint32_t round_trips_ = 0;
  std::optional<absl::Status> listed_;
  // By the blob that they say they are of. Anyone who may push can attach a referrer: a bad one must not
  // stand in the way of a good one.
  std::map<Digest, std::vector<p2p::Descriptor>> recipes_;
};

}  // namespace sluice
