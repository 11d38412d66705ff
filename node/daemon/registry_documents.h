#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/executor.h"
#include "p2p/cluster/home_documents.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// What mounts need of registries beside chunks, for this node and for those whose home it is: who wants the
// same while it is under way shares one request, and what came is kept in memory for a moment.
//
// Thread-safe. Callbacks come on the client's threads or in the call, and must not block. The parts outlive
// this; the client is stopped before this ends.
class RegistryDocuments {
 public:
  static constexpr Duration kKeep = std::chrono::seconds(30);
  static constexpr size_t kFlightsMax = 256;   // requests under way; beyond: ResourceExhausted
  static constexpr size_t kWaitersMax = 4096;  // in all; beyond: ResourceExhausted
  static constexpr uint64_t kKeptBytesMax = 64 << 20;
  static constexpr uint64_t kBlobBytesMax = p2p::HomeDocuments::kBlobBytesMax;

  // kLately: what was kept will do. kNow: only what is under way, or still to be asked for.
  enum class Freshness { kNow, kLately };

  // `keep` is kKeep where others ask, or 0: nothing is kept.
  RegistryDocuments(const Clock& clock, Executor& io, p2p::RegistryClient& registry, Duration keep)
      : clock_(clock), io_(io), registry_(registry), keep_(keep) {}

  using Document = std::shared_ptr<const p2p::FetchedManifest>;
  using Done = absl::AnyInvocable<void(absl::StatusOr<Document>) &&>;
  // Called exactly once. Errors: those of RegistryClient.
  void Manifest(const BlobOrigin& origin, const std::string& tag_or_digest, Freshness freshness, Done done);
  // The index of all that refers to a manifest.
  void Referrers(const BlobOrigin& origin, const Digest& manifest, Freshness freshness, Done done);
  // A whole blob of at most kBlobBytesMax.
  void Blob(const BlobOrigin& origin, const Digest& digest, Freshness freshness, Done done);
  // The seek table of a blob that is kept so, held against its digest. Errors also: DataLoss. REQUIRES:
  // stored.seek_table
  void Table(const BlobOrigin& origin, const StoredForm& stored, Freshness freshness, Done done);
  // A token that strangers get for pulling, as token servers word it; never kept here. Errors also: NotFound.
  void Token(const BlobOrigin& origin, Done done);

 private:
  struct Flight {
    std::vector<Done> waiters;
    bool keep = true;
  };
  struct Kept {
    std::string key;
    Document document;
    Instant until{};
  };
  using Fetched = p2p::RegistryClient::Done<p2p::FetchedManifest>;
  using Start = absl::AnyInvocable<void(Fetched) &&>;

  enum class Keep { kNo, kYes };
  void Get(const std::string& key, Freshness freshness, Start start, Done done, Keep keep = Keep::kYes);
  void End(const std::string& key, absl::StatusOr<p2p::FetchedManifest> fetched);
  // REQUIRES: mutex_ is held
  Document FindKept(const std::string& key, Instant now);
  void DropKept(Instant now);

  const Clock& clock_;
  Executor& io_;
  p2p::RegistryClient& registry_;
  const Duration keep_;

  std::mutex mutex_;  // guards what follows
  std::map<std::string, Flight> flights_;
  size_t waiters_ = 0;
  std::deque<Kept> kept_;  // the oldest first
  uint64_t kept_bytes_ = 0;
};

}  // namespace sluice
