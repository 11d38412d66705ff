#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "p2p/cluster/document_asking.h"
#include "p2p/cluster/ranks.h"
#include "p2p/registry/pull_rights.h"
#include "p2p/registry/registry_client.h"

namespace sluice::p2p {

// What a mount needs beside chunks, from the home of it: the member that asks the registry for it once for
// all who want it. It is the first by score over the digest, or over the SHA-256 of
// "registry/repository:tag"; where it fails or is busy, the second is asked, and then the third: two that are
// gone at once send nobody to the registry beside. A home says at once that it is at it. A whole blob it
// gives to few at once, and names others that have got it: see DocumentAsking. Source: PEERS.md, "Public and
// private" and "Spreading".
//
// What is named by digest is held against it. A tag, and a list of referrers, are what the home says.
//
// While a node learns who the members are, it knows nobody's home: what is asked meanwhile waits for the end
// of that, since a thousand nodes that start together would go to the registry each for itself.
//
// Thread-safe. Callbacks come on the executor's threads, the client's, or in the call. The parts outlive this
// and what is asked.
class HomeDocuments {
 public:
  static constexpr size_t kHomesAskedMax = kRanks;
  static constexpr Duration kPatience =
      std::chrono::seconds(15);  // with a home that only says that it is at it
  static constexpr Duration kTablePatience = std::chrono::seconds(5);  // the same, where a reader waits
  static constexpr uint64_t kBlobBytesMax = 32 << 20;                  // what is larger no home gives whole

  // `in_cold_start`: see MemberExchange; null: never.
  HomeDocuments(DocumentAsking::Parts parts, Telemetry& telemetry,
                std::function<bool()> in_cold_start = nullptr)
      : parts_(std::move(parts)), telemetry_(telemetry), in_cold_start_(std::move(in_cold_start)) {}

  // The access of what is given is kHearsay, or kUnknown where a proven member says that it is not public:
  // then this node has to ask for itself before it uses it (PullRights). Of what a home has not, it is shown
  // this node's token. Errors: NotFound (the registry is to be asked: this node is one of those that may, or
  // a home said that each has to), Unavailable (this node is none of those, and none of them answered, or it
  // reaches too few members to know: only as a last resort), Cancelled. Called exactly once.
  using Done = absl::AnyInvocable<void(absl::StatusOr<FetchedManifest>) &&>;
  void Manifest(const BlobOrigin& origin, const std::string& tag_or_digest, Done done) const;
  // The index of all that refers to a manifest.
  void Referrers(const BlobOrigin& origin, const Digest& manifest, Done done) const;
  // A whole blob, as the registry keeps it under that digest.
  void Blob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max, Done done) const;
  // The seek table of a blob that is kept so. REQUIRES: stored.seek_table
  // `grant`: of another node, for which it is asked; its token is shown instead.
  void Table(const BlobOrigin& origin, const StoredForm& stored, const Grant& grant, Done done) const;
  // A token that strangers get for pulling from the repository, as its home has it. Errors: as above.
  void Token(const BlobOrigin& origin, RegistryClient::Done<AccessToken> done) const;

 private:
  struct Wanted {
    std::string path;
    uint64_t bytes_max = 0;
    std::optional<Digest> digest;  // to hold it against
    Duration patience = kPatience;
    std::optional<BlobOrigin> origin = {};  // whose tokens may be shown; none: no token
    std::string token = {};                 // another node's, which is shown instead
    bool is_spread = false;                 // homes give it to few at once
  };
  // Once it is known who the members are.
  void Ask(const Digest& key, Wanted wanted, Done done) const;
  void AwaitMembers(Instant until, const Digest& key, Wanted wanted, Done done) const;
  void AskHomes(const Digest& key, Wanted wanted, Done done) const;

  const DocumentAsking::Parts parts_;
  Telemetry& telemetry_;
  const std::function<bool()> in_cold_start_;
};

// How a seek table is asked for: what `at` and `size` of the query say of the blob as the registry keeps it.
inline constexpr uint64_t kSeekTableBytesMax = 1 << 20;
std::string TableQuery(const StoredForm& stored);
// Errors: InvalidArgument (malformed, a table that is not the end of the blob or is larger than
// kSeekTableBytesMax).
absl::StatusOr<StoredForm> ParseTableQuery(const Digest& stored, std::string_view at, std::string_view size);

}  // namespace sluice::p2p
