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

absl::Status NodePeerDocuments::MayAsk(const Question& question) const {
  if (!home_) return absl::PermissionDeniedError("this node is nobody's home");
  const bool is_tag = question.kind == Question::Kind::kManifest && !Digest::Parse(question.reference).ok();
  if (is_tag && home_->tags == ImageDocuments::Tags::kFromRegistry)
    return absl::PermissionDeniedError("what a tag is nobody here says to others");
  return home_->allowed.Permits(question.origin);
}

void NodePeerDocuments::AskRegistry(const Question& question, Done done) {
  const BlobOrigin& origin = question.origin;
  if (const absl::Status may = MayAsk(question); !may.ok())
    return std::move(done)(absl::PermissionDeniedError(may.message()));
  const absl::StatusOr<Digest> digest = Digest::Parse(question.reference);
  const bool is_manifest = question.kind == Question::Kind::kManifest;
  if (is_manifest && digest.ok()) {
    absl::StatusOr<api::PeerDocument> here = Manifest(origin, *digest);
    if (here.ok()) return std::move(done)(std::move(here));
  }
  auto give = [this, origin, is_manifest,
               done = std::move(done)](absl::StatusOr<RegistryDocuments::Document> document) mutable {
    if (absl::IsUnauthenticated(document.status()))
      return std::move(done)(absl::PermissionDeniedError(document.status().message()));
    if (!document.ok()) return std::move(done)(document.status());
    if (!IsPublic((*document)->access))
      return std::move(done)(absl::PermissionDeniedError("it takes credentials to get it"));
    if (is_manifest) Keep(origin, *document);
    std::move(done)(api::PeerDocument{(*document)->media_type, (*document)->body});
  };
  constexpr auto kLately = RegistryDocuments::Freshness::kLately;
  switch (question.kind) {
    case Question::Kind::kManifest:
      return home_->registry.Manifest(origin, question.reference, kLately, std::move(give));
    case Question::Kind::kReferrers:
      return home_->registry.Referrers(origin, *digest, kLately, std::move(give));
    case Question::Kind::kBlob:
      return home_->registry.Blob(origin, *digest, kLately, std::move(give));
    case Question::Kind::kToken:
      return home_->registry.Token(origin, std::move(give));
    case Question::Kind::kTable: {
      const absl::StatusOr<StoredForm> stored =
          p2p::ParseTableQuery(*digest, question.table_at, question.stored_size);
      if (!stored.ok()) return give(stored.status());
      return home_->registry.Table(origin, *stored, kLately, std::move(give));
    }
  }
}

// So that others find it here while the registry is away.
void NodePeerDocuments::Keep(const BlobOrigin& origin, const RegistryDocuments::Document& manifest) {
  home_->io.Post([this, origin, manifest] {
    const p2p::ImageReference name{origin, "", manifest->digest};
    if (!manifests_.Get(name).ok()) manifests_.Put(name, *manifest).IgnoreError();
  });
}

}  // namespace sluice
