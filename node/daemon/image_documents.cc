#include "node/daemon/image_documents.h"

#include <future>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

using Freshness = RegistryDocuments::Freshness;
using Fetched = absl::StatusOr<p2p::FetchedManifest>;

RegistryDocuments::Done Copied(ImageDocuments::Done done) {
  return [done = std::move(done)](absl::StatusOr<RegistryDocuments::Document> document) mutable {
    if (!document.ok()) return std::move(done)(document.status());
    std::move(done)(**document);
  };
}

template <typename Start>
Fetched Wait(Start start) {
  auto promise = std::make_shared<std::promise<Fetched>>();
  std::future<Fetched> future = promise->get_future();
  start([promise](Fetched fetched) { promise->set_value(std::move(fetched)); });
  return future.get();
}

}  // namespace

// Alone, a node asks whenever somebody wants to know.
Freshness ImageDocuments::Lately() const {
  return homes_ ? Freshness::kLately : Freshness::kNow;
}

void ImageDocuments::Get(FromHome from_home, FromRegistry from_registry, uint64_t bytes, Done done) {
  if (!homes_ || !from_home) return std::move(from_registry)(registry_, Copied(std::move(done)));
  std::move(from_home)(*homes_, [this, from_registry = std::move(from_registry), bytes,
                                 done = std::move(done)](Fetched given) mutable {
    if (given.ok() || absl::IsCancelled(given.status())) return std::move(done)(std::move(given));
    if (absl::IsUnavailable(given.status()) && last_resort_)
      return AwaitTurn(std::move(from_registry), bytes, std::move(done));
    std::move(from_registry)(registry_, Copied(std::move(done)));
  });
}

void ImageDocuments::AwaitTurn(FromRegistry from_registry, uint64_t bytes, Done done) {
  last_resort_->queue->Await(
      bytes, last_resort_->clock.Now() + p2p::HomeDocuments::kPatience,
      [this, from_registry = std::move(from_registry),
       done = std::move(done)](absl::StatusOr<p2p::GateQueue::Turn> turn) mutable {
        if (!turn.ok()) return std::move(done)(turn.status());
        std::move(from_registry)(
            registry_, Copied([turn = *std::move(turn), done = std::move(done)](Fetched fetched) mutable {
              turn.End(fetched.status());
              std::move(done)(std::move(fetched));
            }));
      });
}

ImageDocuments::Done ImageDocuments::Proven(const BlobOrigin& origin, std::string path, Done done) {
  if (!rights_) return done;
  return [this, origin, path = std::move(path), done = std::move(done)](Fetched got) mutable {
    if (got.ok() && IsPublic(got->access)) rights_->NotePublic(origin);
    if (!got.ok() || IsPublic(got->access)) return std::move(done)(std::move(got));
    rights_->Prove(
        origin, path,
        [got = std::move(got), done = std::move(done)](absl::StatusOr<p2p::PullRight> right) mutable {
          if (!right.ok()) return std::move(done)(right.status());
          got->access =
              right->access == OriginAccess::kPublic ? OriginAccess::kHearsay : OriginAccess::kCredentials;
          std::move(done)(std::move(got));
        });
  };
}

void ImageDocuments::ProveRight(const BlobOrigin& origin, const std::string& path, OnProven on_proven) {
  if (!rights_) return std::move(on_proven)(absl::OkStatus());
  rights_->Prove(origin, path,
                 [on_proven = std::move(on_proven)](absl::StatusOr<p2p::PullRight> right) mutable {
                   std::move(on_proven)(right.status());
                 });
}

absl::Status ImageDocuments::ProveRight(const BlobOrigin& origin, const std::string& path) {
  auto promise = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> future = promise->get_future();
  ProveRight(origin, path, [promise](absl::Status status) { promise->set_value(std::move(status)); });
  return future.get();
}

void ImageDocuments::Manifest(const BlobOrigin& origin, const std::string& tag_or_digest, Done done) {
  const bool by_home = tags_ == Tags::kFromHome || Digest::Parse(tag_or_digest).ok();
  const Freshness freshness = by_home ? Lately() : Freshness::kNow;
  FromHome from_home;
  if (by_home) {
    from_home = [=](const p2p::HomeDocuments& homes, Done got) {
      homes.Manifest(origin, tag_or_digest, std::move(got));
    };
  }
  Get(
      std::move(from_home),
      [=](RegistryDocuments& registry, RegistryDocuments::Done got) {
        registry.Manifest(origin, tag_or_digest, freshness, std::move(got));
      },
      kSizeUnknown, Proven(origin, absl::StrCat("/manifests/", tag_or_digest), std::move(done)));
}

Fetched ImageDocuments::Manifest(const BlobOrigin& origin, const std::string& tag_or_digest) {
  return Wait([&](Done done) { Manifest(origin, tag_or_digest, std::move(done)); });
}

void ImageDocuments::Referrers(const BlobOrigin& origin, const Digest& manifest, Done done) {
  const Freshness freshness = Lately();
  Get([=](const p2p::HomeDocuments& homes, Done got) { homes.Referrers(origin, manifest, std::move(got)); },
      [=](RegistryDocuments& registry, RegistryDocuments::Done got) {
        registry.Referrers(origin, manifest, freshness, std::move(got));
      },
      kSizeUnknown, Proven(origin, absl::StrCat("/manifests/", manifest.ToString()), std::move(done)));
}

void ImageDocuments::Blob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max, Done done) {
  const Freshness freshness = Lately();
  const auto from_home = [=, this](const p2p::HomeDocuments& homes, Done got) {
    homes.Blob(
        origin, digest, bytes_max,
        [=, this, asks = registry_.AsksForBlob(origin, digest), got = std::move(got)](Fetched given) mutable {
          // Other nodes are sent on here.
          if (given.ok()) registry_.KeepBlob(origin, digest, *given);
          asks.reset();
          std::move(got)(std::move(given));
        });
  };
  Get(
      from_home,
      [=](RegistryDocuments& registry, RegistryDocuments::Done got) {
        registry.Blob(origin, digest, freshness, std::move(got));
      },
      bytes_max,
      Proven(origin, absl::StrCat("/blobs/", digest.ToString()),
             [digest, bytes_max, done = std::move(done)](Fetched fetched) mutable {
               if (fetched.ok() && fetched->body.size() > bytes_max) {
                 fetched = absl::ResourceExhaustedError(
                     absl::StrCat(digest.ToString(), " has more than ", bytes_max, " bytes"));
               }
               std::move(done)(std::move(fetched));
             }));
}

void ImageDocuments::Table(const BlobOrigin& origin, const StoredForm& stored, const Grant& grant,
                           Done done) {
  const Freshness freshness = Lately();
  Get([=](const p2p::HomeDocuments& homes, Done got) { homes.Table(origin, stored, grant, std::move(got)); },
      [=](RegistryDocuments& registry, RegistryDocuments::Done got) {
        registry.Table(origin, stored, {freshness, grant}, std::move(got));
      },
      stored.seek_table->range.length, std::move(done));
}

absl::StatusOr<std::string> ImageDocuments::Blob(const BlobOrigin& origin, const Digest& digest,
                                                 uint64_t bytes_max) {
  Fetched fetched = Wait([&](Done done) { Blob(origin, digest, bytes_max, std::move(done)); });
  if (!fetched.ok()) return fetched.status();
  return std::move(fetched->body);
}

}  // namespace sluice
