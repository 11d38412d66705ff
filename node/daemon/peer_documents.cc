#include "node/daemon/peer_documents.h"

#include <algorithm>
#include <utility>

#include "p2p/recipe/recipe.h"
#include "p2p/registry/pull_grant.h"

namespace sluice {
namespace {

constexpr char kTorrentType[] = "application/x-bittorrent";

absl::Status NotHere() {
  return absl::NotFoundError("it is not on this node, or not for everybody");
}

api::PeerDocument Shared(const RegistryDocuments::Document& document, bool is_public) {
  return {document->media_type,
          {},
          is_public,
          std::shared_ptr<const std::string>(document, &document->body),
          document->public_age};
}

// Whether a stranger may hear that it is nowhere. What names a digest looks then as what is private: whoever
// guesses digests learns nothing. Of tags he hears what the registry says to everybody, or a thousand nodes
// would ask for it.
bool MayBeTold(const api::PeerDocuments::Question& question, const absl::Status& not_found) {
  using Kind = api::PeerDocuments::Question::Kind;
  if (question.kind == Kind::kToken) return true;
  const bool is_tag = question.kind == Kind::kManifest && !Digest::Parse(question.reference).ok();
  return is_tag && p2p::IsToldToEverybody(not_found);
}

}  // namespace

bool IsPublicSomewhere(const Blob& blob, const AccessLedger& ledger) {
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  return std::any_of(facts->origins.begin(), facts->origins.end(),
                     [&](const BlobOrigin& origin) { return IsPublic(ledger.AccessOf(blob.key(), origin)); });
}

// By how soon they are answered those who get nothing would learn what is here: so nothing is looked at.
bool NodePeerDocuments::IsClosedToAskers(const BlobOrigin& origin) const {
  return trust_ != PeerTrust::kProven && home_ && home_->registry.TakesCredentials(origin);
}

absl::StatusOr<api::PeerDocument> NodePeerDocuments::Manifest(const BlobOrigin& origin,
                                                              const Digest& digest) {
  if (IsClosedToAskers(origin)) return NotHere();
  const absl::StatusOr<p2p::FetchedManifest> held = manifests_.Get({origin, "", digest});
  if (!held.ok() || held->digest != digest) return NotHere();
  // What is kept on disk this node has got by its own right.
  if (!IsPublic(held->access) && trust_ != PeerTrust::kProven) return NotHere();
  return api::PeerDocument{held->media_type, held->body, IsPublic(held->access), nullptr, held->public_age};
}

absl::StatusOr<api::PeerDocument> NodePeerDocuments::Recipe(const Digest& digest,
                                                            const std::optional<Digest>& root) {
  const std::shared_ptr<Blob> blob = store_.FindBest(digest);
  if (!blob || blob->refused()) return NotHere();
  const bool is_public = IsPublicSomewhere(*blob, store_);
  const std::shared_ptr<const BlobSpec> facts = blob->facts();
  const BlobSpec& spec = *facts;
  // Of what nothing is known yet whoever knows the root gets it: this node tells that to those that it asks.
  const bool is_known = std::any_of(spec.origins.begin(), spec.origins.end(), [&](const BlobOrigin& origin) {
    return store_.AccessOf(blob->key(), origin) != OriginAccess::kUnknown;
  });
  if (!is_public && trust_ != PeerTrust::kProven && (is_known || !root)) return NotHere();
  if (!spec.root || (root && *root != *spec.root)) return NotHere();
  // The root alone is the recipe of a blob of one chunk.
  if (blob->geometry().chunk_count() == 1) {
    return api::PeerDocument{kTorrentType,
                             p2p::Recipe{digest, spec.size, spec.chunk_size, *spec.root, {}}.EncodeTorrent(),
                             is_public};
  }
  absl::StatusOr<std::string> bytes = store_.GetRecipe(blob->key());
  if (!bytes.ok()) return NotHere();
  const absl::StatusOr<p2p::Recipe> recipe = p2p::Recipe::DecodeTorrent(*bytes);
  if (!recipe.ok() || !recipe->IsBoundBy(spec)) return NotHere();
  return api::PeerDocument{kTorrentType, *std::move(bytes), is_public};
}

absl::StatusOr<api::PeerDocument> NodePeerDocuments::GotLately(const Question& question) {
  const absl::StatusOr<Digest> digest = Digest::Parse(question.reference);
  if (!home_ || !digest.ok() || IsClosedToAskers(question.origin)) return NotHere();
  const absl::StatusOr<RegistryDocuments::Document> kept = home_->registry.KeptBlob(question.origin, *digest);
  if (absl::IsUnavailable(kept.status())) return kept.status();
  if (!kept.ok()) return NotHere();
  const bool is_public = IsPublic((*kept)->access);
  if (!is_public && trust_ != PeerTrust::kProven) return NotHere();
  return Shared(*kept, is_public);
}

// Only those that are trusted are told why.
absl::Status NodePeerDocuments::ForCredentials(absl::string_view why) const {
  return trust_ == PeerTrust::kProven ? absl::UnauthenticatedError(why) : absl::PermissionDeniedError(why);
}

// By whose right the registry is asked for another node.
Grant NodePeerDocuments::GrantOf(const Question& question) const {
  if (trust_ != PeerTrust::kProven) return nullptr;
  if (question.token.empty()) return p2p::PullGrant::OfStranger();
  return p2p::PullGrant::OfToken(question.token);
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
  if (question.kind != Question::Kind::kToken && IsClosedToAskers(origin))
    return std::move(done)(ForCredentials("it takes credentials to get anything of that repository"));
  const absl::StatusOr<Digest> digest = Digest::Parse(question.reference);
  const bool is_manifest = question.kind == Question::Kind::kManifest;
  if (is_manifest && digest.ok()) {
    absl::StatusOr<api::PeerDocument> here = Manifest(origin, *digest);
    if (here.ok()) return std::move(done)(std::move(here));
  }
  auto give = [this, question, origin, is_manifest,
               done = std::move(done)](absl::StatusOr<RegistryDocuments::Document> document) mutable {
    if (absl::IsNotFound(document.status()) && trust_ != PeerTrust::kProven &&
        !MayBeTold(question, document.status()))
      return std::move(done)(ForCredentials("this node can't get it"));
    if (absl::IsPermissionDenied(document.status()) || absl::IsUnauthenticated(document.status()))
      return std::move(done)(ForCredentials(document.status().message()));
    if (!document.ok()) return std::move(done)(document.status());
    const bool is_public = IsPublic((*document)->access);
    if (!is_public && trust_ != PeerTrust::kProven)
      return std::move(done)(ForCredentials("it takes credentials to get it"));
    // What another's token brought is no evidence of what this node may have.
    if (is_manifest && is_public) Keep(origin, *document);
    if (question.kind == Question::Kind::kBlob) return std::move(done)(Shared(*document, is_public));
    std::move(done)(api::PeerDocument{(*document)->media_type, (*document)->body, is_public, nullptr,
                                      (*document)->public_age});
  };
  const RegistryDocuments::Ask ask(RegistryDocuments::Freshness::kLately, GrantOf(question));
  switch (question.kind) {
    case Question::Kind::kManifest:
      return home_->registry.Manifest(origin, question.reference, ask, std::move(give));
    case Question::Kind::kReferrers:
      return home_->registry.Referrers(origin, *digest, ask, std::move(give));
    case Question::Kind::kBlob:
      return home_->registry.Blob(origin, *digest, ask, std::move(give));
    case Question::Kind::kToken:
      return home_->registry.Token(origin, std::move(give));
    case Question::Kind::kTable: {
      const absl::StatusOr<StoredForm> stored =
          p2p::ParseTableQuery(*digest, question.table_at, question.stored_size);
      if (!stored.ok()) return give(stored.status());
      return home_->registry.Table(origin, *stored, ask, std::move(give));
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
