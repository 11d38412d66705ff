#include "node/daemon/registry_documents.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/seek_table_cache.h"

namespace sluice {
namespace {

// A name has no space.
std::string KeyOf(absl::string_view kind, const BlobOrigin& origin, const std::string& reference) {
  return absl::StrCat(kind, " ", origin.registry, " ", origin.repository, " ", reference);
}

}  // namespace

std::vector<std::string> AcceptedManifests() {
  return {std::string(p2p::media_type::kOciManifest), std::string(p2p::media_type::kOciIndex),
          std::string(p2p::media_type::kDockerManifest), std::string(p2p::media_type::kDockerManifestList)};
}

void RegistryDocuments::Manifest(const BlobOrigin& origin, const std::string& tag_or_digest, const Ask& ask,
                                 Done done) {
  Get(
      KeyOf("manifest", origin, tag_or_digest), ask,
      [this, origin, tag_or_digest](const Grant& grant, Fetched fetched) {
        registry_.FetchManifest(origin, tag_or_digest, AcceptedManifests(), std::move(fetched), grant);
      },
      std::move(done));
}

void RegistryDocuments::Referrers(const BlobOrigin& origin, const Digest& manifest, const Ask& ask,
                                  Done done) {
  Get(
      KeyOf("referrers", origin, manifest.ToString()), ask,
      [this, origin, manifest](const Grant& grant, Fetched fetched) {
        registry_.FetchReferrers(origin, manifest, std::move(fetched), grant);
      },
      std::move(done));
}

// Whatever who asks would take of it: those who want the same are to share a request.
void RegistryDocuments::Blob(const BlobOrigin& origin, const Digest& digest, const Ask& ask, Done done) {
  Get(
      KeyOf("blob", origin, digest.ToString()), ask,
      [this, origin, digest](const Grant& grant, Fetched fetched) {
        registry_.FetchBlobDocument(origin, digest, kBlobBytesMax, std::move(fetched), grant);
      },
      std::move(done));
}

absl::StatusOr<RegistryDocuments::Document> RegistryDocuments::KeptBlob(const BlobOrigin& origin,
                                                                        const Digest& digest) {
  const std::string key = KeyOf("blob", origin, digest.ToString());
  bool is_coming = false;
  {
    // First: it is kept before it is not asked for any more.
    const std::lock_guard lock(asked_elsewhere_->mutex);
    is_coming = asked_elsewhere_->keys.contains(key);
  }
  const std::lock_guard lock(mutex_);
  if (Document kept = FindKept(key, clock_.Now())) return kept;
  if (is_coming) return absl::UnavailableError("it is on its way");
  return absl::NotFoundError("it was not here lately");
}

void RegistryDocuments::KeepBlob(const BlobOrigin& origin, const Digest& digest, p2p::FetchedManifest given) {
  if (keep_ == Duration(0)) return;
  const std::string key = KeyOf("blob", origin, digest.ToString());
  auto document = std::make_shared<const p2p::FetchedManifest>(std::move(given));
  const std::lock_guard lock(mutex_);
  KeepForNow(key, std::move(document));
}

std::shared_ptr<const void> RegistryDocuments::AsksForBlob(const BlobOrigin& origin, const Digest& digest) {
  const std::lock_guard lock(asked_elsewhere_->mutex);
  const auto asked = asked_elsewhere_->keys.insert(KeyOf("blob", origin, digest.ToString()));
  return {asked_elsewhere_.get(), [elsewhere = asked_elsewhere_, asked](const void*) {
            const std::lock_guard later(elsewhere->mutex);
            elsewhere->keys.erase(asked);
          }};
}

void RegistryDocuments::Table(const BlobOrigin& origin, const StoredForm& stored, const Ask& ask, Done done) {
  Get(
      KeyOf("table", origin, absl::StrCat(stored.digest.ToString(), " ", p2p::TableQuery(stored))), ask,
      [this, origin, stored](const Grant& grant, Fetched fetched) {
        const auto table = std::make_shared<p2p::FetchedManifest>();
        table->media_type = "application/octet-stream";
        table->digest = stored.seek_table->digest;
        registry_.ReadBlobRange(
            origin, stored.digest, stored.size, stored.seek_table->range, FetchClass::kDemand,
            clock_.Now() + p2p::SeekTableCache::kAskMax,
            [table](OriginAccess access) { table->access = access; },
            [table](std::span<const std::byte> bytes) {
              table->body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
            },
            [table, fetched = std::move(fetched)](absl::Status status) mutable {
              if (status.ok() && p2p::Sha256::Of(table->body) != table->digest)
                status = absl::DataLossError("its seek table is not what its digest promises");
              if (!status.ok()) return std::move(fetched)(std::move(status));
              std::move(fetched)(std::move(*table));
            },
            grant);
      },
      std::move(done));
}

void RegistryDocuments::Token(const BlobOrigin& origin, Done done) {
  Get(
      KeyOf("token", origin, ""), Freshness::kNow,
      [this, origin](const Grant&, Fetched fetched) {
        registry_.AnonymousToken(
            origin, [fetched = std::move(fetched)](absl::StatusOr<p2p::AccessToken> token) mutable {
              if (!token.ok()) return std::move(fetched)(token.status());
              const int64_t seconds = std::chrono::floor<std::chrono::seconds>(token->lifetime).count();
              if (seconds == 0) return std::move(fetched)(absl::NotFoundError("it is about to expire"));
              const nlohmann::json json = {{"token", token->value}, {"expires_in", seconds}};
              std::move(fetched)(
                  p2p::FetchedManifest{"application/json", json.dump(), Digest(), OriginAccess::kPublic});
            });
      },
      std::move(done), Keep::kNo);
}

void RegistryDocuments::Get(const std::string& key, const Ask& ask, Start start, Done done, Keep keep) {
  {
    std::unique_lock lock(mutex_);
    if (ask.freshness == Freshness::kLately) {
      if (Document kept = FindKept(key, clock_.Now())) {
        lock.unlock();
        return std::move(done)(std::move(kept));
      }
    }
    const auto flight = flights_.find(key);
    const bool is_new = flight == flights_.end();
    if (waiters_ == kWaitersMax || (is_new && flights_.size() == kFlightsMax)) {
      lock.unlock();
      return std::move(done)(
          absl::ResourceExhaustedError("too much is being asked of registries at once; try again"));
    }
    ++waiters_;
    if (!is_new) {
      flight->second.waiters.push_back({ask.grant, std::move(done)});
      return;
    }
    Flight& fresh = flights_[key];
    fresh.start = start;
    fresh.grant = ask.grant;
    fresh.keep = keep == Keep::kYes && keep_ > Duration(0);
    fresh.waiters.push_back({ask.grant, std::move(done)});
  }
  Begin(key, start, ask.grant);
}

void RegistryDocuments::Begin(const std::string& key, const Start& start, const Grant& grant) {
  start(grant, [this, key](absl::StatusOr<p2p::FetchedManifest> fetched) { End(key, std::move(fetched)); });
}

// REQUIRES: mutex_ is held
std::vector<RegistryDocuments::Waiter> RegistryDocuments::TakeRefused(Flight& flight,
                                                                      const absl::Status& status) {
  // Some registries hide as absent what is not for whoever asks.
  const bool is_refusal =
      absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status) || absl::IsNotFound(status);
  const auto refused = is_refusal
                           ? std::stable_partition(flight.waiters.begin(), flight.waiters.end(),
                                                   [&](const Waiter& w) { return w.grant != flight.grant; })
                           : flight.waiters.begin();
  std::vector<Waiter> taken(std::make_move_iterator(refused), std::make_move_iterator(flight.waiters.end()));
  flight.waiters.erase(refused, flight.waiters.end());
  waiters_ -= taken.size();
  return taken;
}

void RegistryDocuments::End(const std::string& key, absl::StatusOr<p2p::FetchedManifest> fetched) {
  const absl::StatusOr<Document> document =
      fetched.ok()
          ? absl::StatusOr<Document>(std::make_shared<const p2p::FetchedManifest>(*std::move(fetched)))
          : fetched.status();
  std::vector<Waiter> waiters;
  Start again;
  Grant next;
  {
    const std::lock_guard lock(mutex_);
    const auto found = flights_.find(key);
    Flight& flight = found->second;
    waiters = TakeRefused(flight, document.status());
    if (!flight.waiters.empty()) {
      again = flight.start;
      next = flight.grant = flight.waiters.front().grant;
    } else {
      if (document.ok() && flight.keep) KeepForNow(key, *document);
      flights_.erase(found);
    }
  }
  for (Waiter& waiter : waiters) std::move(waiter.done)(document);
  if (again) Begin(key, again, next);
}

// REQUIRES: mutex_ is held
void RegistryDocuments::KeepForNow(const std::string& key, const Document& document) {
  if (document->body.size() > kKeptBytesMax / 2) return;
  const Instant now = clock_.Now();
  std::erase_if(kept_, [&](const Kept& kept) {
    if (kept.key != key) return false;
    kept_bytes_ -= kept.document->body.size();
    return true;
  });
  kept_.push_back({key, document, now + keep_});
  kept_bytes_ += document->body.size();
  DropKept(now);
  io_.PostAt(now + keep_, [this] {
    const std::lock_guard later(mutex_);
    DropKept(clock_.Now());
  });
}

RegistryDocuments::Document RegistryDocuments::FindKept(const std::string& key, Instant now) {
  DropKept(now);
  // The latest of that name.
  const auto kept = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Kept& k) { return k.key == key; });
  return kept == kept_.rend() ? nullptr : kept->document;
}

void RegistryDocuments::DropKept(Instant now) {
  while (!kept_.empty() && (kept_.front().until <= now || kept_bytes_ > kKeptBytesMax)) {
    kept_bytes_ -= kept_.front().document->body.size();
    kept_.pop_front();
  }
}

}  // namespace sluice
