#pragma once

#include <functional>
#include <memory>
#include <string>

#include "index/disk_store.h"
#include "node/chunk_source.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/image_preparer.h"
#include "node/daemon/image_resolver.h"
#include "node/daemon/registry_documents.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "p2p/registry/allow_list.h"
#include "p2p/registry/origin_source.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// Prepares images by credentials that came with one hint. Whatever takes them it asks of registries itself
// and for itself: of no other node, and no manifest of it is kept, so that nobody mounts later what this
// node's own credentials do not give. What it brings into the store is as private as the registry says.
//
// Thread-safe.
class LoginPreparer final : public ImagePreparer {
 public:
  struct Parts {
    const Clock& clock;
    Executor& core;
    Executor& io;
    index::DiskStore& store;
    BlobCache& cache;
    BackgroundFill& fills;
    ChunkVerifier& verifier;
    AccessLedger& ledger;
    p2p::RegistryClient& registry;
    const p2p::AllowList& allowed;
    Telemetry& telemetry;
    ImageResolver::AskPolicy ask_policy;                         // may be null
    std::function<absl::Status(const BlobKey&)> discard_copies;  // as StoreImagePreparer has it
  };

  // The parts outlive this. REQUIRES: PullGrant::IsCredentials(grant)
  LoginPreparer(const Parts& parts, const Grant& grant);

  absl::StatusOr<std::string> Check(const std::string& reference) const override;
  absl::StatusOr<ResolvedImage> Resolve(const std::string& reference, const p2p::Platform& platform) override;
  absl::StatusOr<PreparedImage> Prepare(const ResolvedImage& image, const PrepareBounds& bounds) override;
  absl::StatusOr<BlobSpec> FindBlob(const std::string& reference, uint64_t size) override;
  absl::StatusOr<Blob::Lease> PrepareBlob(const BlobSpec& blob, const PrepareBounds& bounds) override;

 private:
  const std::unique_ptr<p2p::RegistryClient> registry_;
  RegistryDocuments from_registry_;
  ImageDocuments documents_;
  ImageResolver resolver_;
  p2p::OriginSource origin_;
  StoreImagePreparer preparer_;
};

}  // namespace sluice
