#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/cancel_check.h"
#include "node/daemon/attached_recipes.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/manifest_cache.h"
#include "node/daemon/root_vouchers.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "node/origin_access.h"
#include "node/recipe_store.h"
#include "p2p/cluster/peer_documents.h"
#include "p2p/recipe/recipe.h"
#include "p2p/registry/allow_list.h"
#include "p2p/registry/image_choice.h"
#include "p2p/registry/lazy_image.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/platform_match.h"
#include "p2p/registry/reference.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

struct ResolvedImage {
  p2p::ImageReference reference;
  Digest manifest;  // of the platform's own manifest, not of an index that led there
  p2p::LazyImage image;
  uint32_t round_trips = 0;  // documents that were asked for in a row
};

// From a reference to what must be known before the image is mounted.
//
// Thread-safe; blocks on the registry, so not for the core loop.
class ImageResolver {
 public:
  // Takes what members say that the recipe of a blob without a root is.
  using ClaimRecipe = std::function<void(const BlobKey&, p2p::Recipe)>;
  // Whether the image may be had whose manifest or index that is; asked before anything else of it is
  // fetched.
  using AskPolicy = std::function<absl::Status(const p2p::ImageReference&, const p2p::FetchedManifest&)>;
  // All outlive the resolver. `peers` is null on a node without members; without `claim` nothing that they
  // say of such blobs is believed; `manifests` is null where none is to be found again by others.
  ImageResolver(p2p::RegistryClient& registry, ImageDocuments& documents, const p2p::AllowList& allowed,
                RecipeStore& recipes, ManifestCache* manifests, const p2p::PeerDocumentClient* peers,
                ClaimRecipe claim = nullptr, AskPolicy ask_policy = nullptr)
      : registry_(registry),
        documents_(documents),
        allowed_(allowed),
        recipes_(recipes),
        manifests_(manifests),
        peers_(peers),
        claim_(std::move(claim)),
        ask_policy_(std::move(ask_policy)) {}

  // The reference, if this node may ask for it; asks nobody. Errors: InvalidArgument (reference),
  // PermissionDenied (the allow-list).
  absl::StatusOr<p2p::ImageReference> Check(const std::string& reference) const;

  // The same of a blob without an image. Errors also: PermissionDenied (a policy decides, which knows
  // images).
  absl::StatusOr<p2p::ImageReference> CheckBlob(const std::string& reference) const;

  // Follows an index to the image that suits the platform best, those that can be mounted first (see
  // p2p::ChooseImage). All is asked for as ImageDocuments does. If the registry can't be reached, a manifest
  // is as it was fetched last, or, named by digest, as a member has it; if the registry answers with an
  // error, that is the answer. Errors: InvalidArgument (reference, manifest), PermissionDenied (the
  // allow-list, the registry), FailedPrecondition (not a lazy image), and those of RegistryClient.
  absl::StatusOr<ResolvedImage> Resolve(const std::string& reference,
                                        const p2p::Platform& platform = p2p::ThisCpu());

  struct RecipesFetched {
    std::string missing;       // those that can't be had, and why; for people
    uint32_t round_trips = 0;  // documents that were asked for in a row
  };
  // Puts the bound recipes of blobs of the image into the store, where they are missing: from members, else
  // from the registry. A recipe that can't be had is no error: its blob is served unverified and checked when
  // it is complete. Once it is cancelled it ends soon, without them.
  RecipesFetched FetchRecipes(const p2p::ImageReference& reference, const Digest& manifest,
                              std::span<const std::shared_ptr<Blob>> blobs, const CancelCheck& cancelled);
  // Whether the recipe of the blob is here.
  bool HasBoundRecipe(const BlobKey& key, const BlobSpec& facts);

  // Which manifest tells the root of a blob, of those whose recipes were wanted; for people. Empty: none is
  // known.
  std::string WhoTellsRoot(const Digest& blob, const Digest& root) const { return roots_.Find(blob, root); }

  // How many bytes the repository says that a blob of it has. Blocks. Errors: those of RegistryClient.
  absl::StatusOr<uint64_t> AskForSize(const BlobOrigin& origin, const Digest& digest) {
    return registry_.HeadBlob(origin, digest);
  }

  struct Given {
    std::string bytes;
    OriginAccess access = OriginAccess::kUnknown;  // what it took
  };
  // Bytes of a blob as that repository gives them to this node. Blocks. Errors: those of RegistryClient.
  absl::StatusOr<Given> AskForBytes(const BlobOrigin& origin, const Blob& blob, ByteRange range,
                                    Instant deadline);

 private:
  // Whether the registry is asked once more in the course of one call.
  enum class Registry { kAsk, kAway };
  // What one call goes by.
  struct Asking {
    Registry registry = Registry::kAsk;
    uint32_t round_trips = 0;
  };

  absl::StatusOr<p2p::ChosenImage> Choose(const p2p::ImageReference& reference, const p2p::Platform& platform,
                                          Asking& asking);
  absl::StatusOr<std::string> FetchConfig(const BlobOrigin& origin, const Digest& digest, Asking& asking);
  absl::StatusOr<p2p::FetchedManifest> FetchOne(const p2p::ImageReference& reference, Asking& asking);
  absl::StatusOr<p2p::FetchedManifest> FindElsewhere(const p2p::ImageReference& reference);
  absl::StatusOr<p2p::FetchedManifest> FindKept(const p2p::ImageReference& name);
  void Keep(const p2p::ImageReference& reference, const p2p::FetchedManifest& manifest);
  bool TakeFromMembers(const BlobKey& key, const BlobSpec& facts);

  p2p::RegistryClient& registry_;
  ImageDocuments& documents_;
  const p2p::AllowList& allowed_;
  RecipeStore& recipes_;
  ManifestCache* const manifests_;
  const p2p::PeerDocumentClient* const peers_;
  const ClaimRecipe claim_;
  const AskPolicy ask_policy_;
  RootVouchers roots_;
};

}  // namespace sluice
