#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "api/http/document_route.h"
#include "index/disk_store.h"
#include "node/daemon/manifest_cache.h"
#include "node/digest.h"

namespace sluice {

// What this node gives to others of its manifests and recipes.
//
// Thread-safe; blocks on disk.
class NodePeerDocuments final : public api::PeerDocuments {
 public:
  // Both outlive this.
  NodePeerDocuments(index::DiskStore& store, const ManifestCache& manifests)
      : store_(store), manifests_(manifests) {}

  absl::StatusOr<api::PeerDocument> Manifest(const BlobOrigin& origin, const Digest& digest) override;
  absl::StatusOr<api::PeerDocument> Recipe(const Digest& blob, const std::optional<Digest>& root) override;

 private:
  index::DiskStore& store_;
  const ManifestCache& manifests_;
};

// Whether this node got the blob as public from any of its origins.
bool IsPublicSomewhere(const Blob& blob, const AccessLedger& ledger);

}  // namespace sluice
