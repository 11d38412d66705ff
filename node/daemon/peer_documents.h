#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "api/http/document_route.h"
#include "index/disk_store.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/manifest_cache.h"
#include "node/daemon/registry_documents.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/peer_trust.h"
#include "p2p/registry/allow_list.h"

namespace sluice {

// What this node gives to others of its manifests and recipes, and as their home of what registries have.
//
// Thread-safe; blocks on disk.
class NodePeerDocuments final : public api::PeerDocuments {
 public:
  // Of a home: what it may ask, and how. All outlive this.
  struct Home {
    RegistryDocuments& registry;
    const p2p::AllowList& allowed;
    Executor& io;
    ImageDocuments::Tags tags;
  };
  // All outlive this. Without `home` this node is nobody's. Members that are proven get what is not public,
  // too.
  NodePeerDocuments(index::DiskStore& store, ManifestCache& manifests, std::optional<Home> home,
                    PeerTrust trust = PeerTrust::kUnproven)
      : store_(store), manifests_(manifests), home_(home), trust_(trust) {}

  absl::StatusOr<api::PeerDocument> Manifest(const BlobOrigin& origin, const Digest& digest) override;
  absl::StatusOr<api::PeerDocument> Recipe(const Digest& blob, const std::optional<Digest>& root) override;
  void AskRegistry(const Question& question, Done done) override;
  absl::StatusOr<api::PeerDocument> GotLately(const Question& question) override;

 private:
  absl::Status MayAsk(const Question& question) const;
  bool IsClosedToAskers(const BlobOrigin& origin) const;
  Grant GrantOf(const Question& question) const;
  absl::Status ForCredentials(absl::string_view why) const;
  void Keep(const BlobOrigin& origin, const RegistryDocuments::Document& manifest);

  index::DiskStore& store_;
  ManifestCache& manifests_;
  const std::optional<Home> home_;
  const PeerTrust trust_;
};

// Whether this node got the blob as public from any of its origins.
bool IsPublicSomewhere(const Blob& blob, const AccessLedger& ledger);

}  // namespace sluice
