#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "p2p/cluster/home_documents.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// What mounts need of registries beside chunks, for this node and for those whose home it is: who wants the
// same while it is under way shares one request, and what came is kept in memory for a moment. It is asked
// for by the right of the first of them; what is refused to one is asked for by the next one's. That one may
// have it says nothing of the others: see PullRights.
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
  // How something is asked for; `grant` as RegistryClient has it.
  struct Ask {
    // NOLINTNEXTLINE(google-explicit-constructor): most ask by this node's own right.
    Ask(Freshness how_fresh, Grant by = nullptr) : freshness(how_fresh), grant(std::move(by)) {}
    Freshness freshness;
    Grant grant;
  };

  // `keep` is kKeep where others ask, or 0: nothing is kept.
  RegistryDocuments(const Clock& clock, Executor& io, p2p::RegistryClient& registry, Duration keep)
      : clock_(clock), io_(io), registry_(registry), keep_(keep) {}

  using Document = std::shared_ptr<const p2p::FetchedManifest>;
  using Done = absl::AnyInvocable<void(absl::StatusOr<Document>) &&>;
  // Called exactly once. Errors: those of RegistryClient.
  void Manifest(const BlobOrigin& origin, const std::string& tag_or_digest, const Ask& ask, Done done);
  // The index of all that refers to a manifest.
  void Referrers(const BlobOrigin& origin, const Digest& manifest, const Ask& ask, Done done);
  // A whole blob of at most kBlobBytesMax.
  void Blob(const BlobOrigin& origin, const Digest& digest, const Ask& ask, Done done);
  // The same, of what was kept, also of what another node gave. Errors: NotFound, Unavailable (this node is
  // asking another for it).
  absl::StatusOr<Document> KeptBlob(const BlobOrigin& origin, const Digest& digest);
  // Keeps what another node gave, for those that are sent on here.
  void KeepBlob(const BlobOrigin& origin, const Digest& digest, p2p::FetchedManifest given);
  // This node asks another for it, as long as what is returned lives.
  std::shared_ptr<const void> AsksForBlob(const BlobOrigin& origin, const Digest& digest);
  // The seek table of a blob that is kept so, held against its digest. Errors also: DataLoss. REQUIRES:
  // stored.seek_table
  void Table(const BlobOrigin& origin, const StoredForm& stored, const Ask& ask, Done done);
  // Whether it was found lately that strangers get nothing of that repository.
  bool TakesCredentials(const BlobOrigin& origin) const {
    return registry_.rights().TakesCredentials(origin);
  }
  // A token that strangers get for pulling, as token servers word it; never kept here. Errors also: NotFound.
  void Token(const BlobOrigin& origin, Done done);

 private:
  using Fetched = p2p::RegistryClient::Done<p2p::FetchedManifest>;
  using Start = std::function<void(const Grant&, Fetched)>;
  struct Waiter {
    Grant grant;
    Done done;
  };
  struct Flight {
    Start start;
    Grant grant;  // by which it is asked for now
    std::vector<Waiter> waiters = {};
    bool keep = true;
  };
  struct Kept {
    std::string key;
    Document document;
    Instant until{};
  };

  enum class Keep { kNo, kYes };
  void Get(const std::string& key, const Ask& ask, Start start, Done done, Keep keep = Keep::kYes);
  void Begin(const std::string& key, const Start& start, const Grant& grant);
  void End(const std::string& key, absl::StatusOr<p2p::FetchedManifest> fetched);
  // Those to whom the refusal goes; the others' right is tried next.
  std::vector<Waiter> TakeRefused(Flight& flight, const absl::Status& status);
  // REQUIRES: mutex_ is held
  void KeepForNow(const std::string& key, const Document& document);
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

  struct AskedElsewhere {
    std::mutex mutex;
    std::multiset<std::string> keys;  // guarded by it
  };
  const std::shared_ptr<AskedElsewhere> asked_elsewhere_ = std::make_shared<AskedElsewhere>();
};

// The media types of manifests and indexes that registries are asked for.
std::vector<std::string> AcceptedManifests();

}  // namespace sluice
