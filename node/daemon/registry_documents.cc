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

std::vector<std::string> AcceptedManifests() {
  return {std::string(p2p::media_type::kOciManifest), std::string(p2p::media_type::kOciIndex),
          std::string(p2p::media_type::kDockerManifest), std::string(p2p::media_type::kDockerManifestList)};
}

// A name has no space.
std::string KeyOf(absl::string_view kind, const BlobOrigin& origin, const std::string& reference) {
  return absl::StrCat(kind, " ", origin.registry, " ", origin.repository, " ", reference);
}

}  // namespace

void RegistryDocuments::Manifest(const BlobOrigin& origin, const std::string& tag_or_digest,
                                 Freshness freshness, Done done) {
  Get(
      KeyOf("manifest", origin, tag_or_digest), freshness,
      [this, origin, tag_or_digest](Fetched fetched) {
        registry_.FetchManifest(origin, tag_or_digest, AcceptedManifests(), std::move(fetched));
      },
      std::move(done));
}

void RegistryDocuments::Referrers(const BlobOrigin& origin, const Digest& manifest, Freshness freshness,
                                  Done done) {
  Get(
      KeyOf("referrers", origin, manifest.ToString()), freshness,
      [this, origin, manifest](Fetched fetched) {
        registry_.FetchReferrers(origin, manifest, std::move(fetched));
      },
      std::move(done));
}

// Whatever who asks would take of it: those who want the same are to share a request.
void RegistryDocuments::Blob(const BlobOrigin& origin, const Digest& digest, Freshness freshness, Done done) {
  Get(
      KeyOf("blob", origin, digest.ToString()), freshness,
      [this, origin, digest](Fetched fetched) {
        registry_.FetchBlobDocument(origin, digest, kBlobBytesMax, std::move(fetched));
      },
      std::move(done));
}

void RegistryDocuments::Table(const BlobOrigin& origin, const StoredForm& stored, Freshness freshness,
                              Done done) {
  Get(
      KeyOf("table", origin, absl::StrCat(stored.digest.ToString(), " ", p2p::TableQuery(stored))), freshness,
      [this, origin, stored](Fetched fetched) {
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
            });
      },
      std::move(done));
}

void RegistryDocuments::Token(const BlobOrigin& origin, Done done) {
  Get(
      KeyOf("token", origin, ""), Freshness::kNow,
      [this, origin](Fetched fetched) {
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

void RegistryDocuments::Get(const std::string& key, Freshness freshness, Start start, Done done, Keep keep) {
  {
    std::unique_lock lock(mutex_);
    if (freshness == Freshness::kLately) {
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
      flight->second.waiters.push_back(std::move(done));
      return;
    }
    Flight& fresh = flights_[key];
    fresh.keep = keep == Keep::kYes && keep_ > Duration(0);
    fresh.waiters.push_back(std::move(done));
  }
  std::move(start)(
      [this, key](absl::StatusOr<p2p::FetchedManifest> fetched) { End(key, std::move(fetched)); });
}

void RegistryDocuments::End(const std::string& key, absl::StatusOr<p2p::FetchedManifest> fetched) {
  const absl::StatusOr<Document> document =
      fetched.ok()
          ? absl::StatusOr<Document>(std::make_shared<const p2p::FetchedManifest>(*std::move(fetched)))
          : fetched.status();
  std::vector<Done> waiters;
  {
    const std::lock_guard lock(mutex_);
    const auto flight = flights_.find(key);
    waiters = std::move(flight->second.waiters);
    const bool keep = flight->second.keep;
    flights_.erase(flight);
    waiters_ -= waiters.size();
    if (document.ok() && keep && (*document)->body.size() <= kKeptBytesMax / 2) {
      const Instant now = clock_.Now();
      kept_.push_back({key, *document, now + keep_});
      kept_bytes_ += (*document)->body.size();
      DropKept(now);
      io_.PostAt(now + keep_, [this] {
        const std::lock_guard later(mutex_);
        DropKept(clock_.Now());
      });
    }
  }
  for (Done& waiter : waiters) std::move(waiter)(document);
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
