#include "node/daemon/peer_documents.h"

#include <algorithm>
#include <utility>

#include "p2p/recipe/recipe.h"

namespace sluice {
namespace {

constexpr char kTorrentType[] = "application/x-bittorrent";

absl::Status NotHere() {
  return absl::NotFoundError("it is not on this node, or not for everybody");
}

}  // namespace

bool IsPublicSomewhere(const Blob& blob, const AccessLedger& ledger) {
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  return std::any_of(facts->origins.begin(), facts->origins.end(),
                     [&](const BlobOrigin& origin) { return IsPublic(ledger.AccessOf(blob.key(), origin)); });
}

absl::StatusOr<api::PeerDocument> NodePeerDocuments::Manifest(const BlobOrigin& origin,
                                                              const Digest& digest) {
  const absl::StatusOr<p2p::FetchedManifest> held = manifests_.Get({origin, "", digest});
  if (!held.ok() || held->digest != digest || !IsPublic(held->access)) return NotHere();
  return api::PeerDocument{held->media_type, held->body};
}

absl::StatusOr<api::PeerDocument> NodePeerDocuments::Recipe(const Digest& digest,
                                                            const std::optional<Digest>& root) {
  const std::shared_ptr<Blob> blob = store_.FindBest(digest);
  if (!blob || blob->refused() || !IsPublicSomewhere(*blob, store_)) return NotHere();
  const std::shared_ptr<const BlobSpec> facts = blob->facts();
  const BlobSpec& spec = *facts;
  if (!spec.root || (root && *root != *spec.root)) return NotHere();
  // The root alone is the recipe of a blob of one chunk.
  if (blob->geometry().chunk_count() == 1) {
    return api::PeerDocument{kTorrentType,
                             p2p::Recipe{digest, spec.size, spec.chunk_size, *spec.root, {}}.EncodeTorrent()};
  }
  absl::StatusOr<std::string> bytes = store_.GetRecipe(blob->key());
  if (!bytes.ok()) return NotHere();
  const absl::StatusOr<p2p::Recipe> recipe = p2p::Recipe::DecodeTorrent(*bytes);
  if (!recipe.ok() || !recipe->IsBoundBy(spec)) return NotHere();
  return api::PeerDocument{kTorrentType, *std::move(bytes)};
}

}  // namespace sluice
