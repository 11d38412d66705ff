#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/daemon/image_documents.h"
#include "node/digest.h"
#include "p2p/cluster/profile_codec.h"
#include "p2p/registry/manifest.h"

namespace sluice {

// The profile that somebody has attached to an image in its registry, as a referrer of its manifest. Advice:
// one that is malformed, too large or of another image is none.
//
// Thread-safe; does not block.
class AttachedProfiles {
 public:
  static constexpr size_t kReferrersMax = 4;  // looked into

  // `documents` outlives this and what it asks.
  explicit AttachedProfiles(ImageDocuments& documents) : documents_(documents) {}

  // The one that was made last of those that are right; nothing if none is, or it can't be had. Called once,
  // on the registry client's or the peer client's threads.
  using OnFound = absl::AnyInvocable<void(std::optional<p2p::KeptProfile>) &&>;
  void Fetch(const BlobOrigin& origin, const Digest& manifest, OnFound on_found);

 private:
  struct Asked;
  using AskedPtr = std::shared_ptr<Asked>;

  void Next(const AskedPtr& asked);
  void TakeArtifact(const AskedPtr& asked, const absl::StatusOr<p2p::FetchedManifest>& fetched);
  void TakeProfile(const AskedPtr& asked, const absl::StatusOr<p2p::FetchedManifest>& fetched);

  ImageDocuments& documents_;
};

}  // namespace sluice
