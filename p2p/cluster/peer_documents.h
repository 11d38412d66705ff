#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/executor.h"
#include "p2p/cluster/document_asking.h"
#include "p2p/recipe/recipe.h"
#include "p2p/registry/registry_client.h"

namespace sluice::p2p {

// What a mount needs beside chunks, from other nodes that have it: each checked against its digest, a recipe
// against the root that binds it. Members are asked as DocumentAsking says, by the ranks of the digest, those
// of this node's zone first.
//
// Thread-safe; blocks: not on the client's threads or the executor's. Errors of all: NotFound (no member that
// was asked gave it).
class PeerDocumentClient {
 public:
  static constexpr size_t kMembersAskedMax = 8;
  static constexpr uint64_t kWholeBlobBytesMax = 64 << 20;        // held in memory until its digest is known
  static constexpr Duration kTimeout = std::chrono::seconds(10);  // of all members, for a manifest or recipe
  static constexpr Duration kSealedTimeout = std::chrono::seconds(1);

  // The parts outlive the client.
  PeerDocumentClient(DocumentAsking::Parts parts, Telemetry& telemetry)
      : parts_(std::move(parts)), telemetry_(telemetry) {}

  // Its access is kHearsay, or kUnknown where a proven member says that it is not public: then this node has
  // to ask for itself before it uses it.
  absl::StatusOr<FetchedManifest> FetchManifest(const BlobOrigin& origin, const Digest& digest) const;
  // The encoded recipe that `spec` binds. REQUIRES: spec.root
  absl::StatusOr<std::string> FetchRecipe(const BlobSpec& spec) const;
  // What the ranks of a blob without a root say that its recipe is: who has sealed it knows, another may have
  // it from a manifest. Asked briefly.
  absl::StatusOr<Recipe> FetchSealed(const BlobSpec& spec) const;
  // A whole blob, by the deadline; also NotFound if it is larger than kWholeBlobBytesMax. The access is as
  // above.
  struct WholeBlob {
    std::string bytes;
    OriginAccess access = OriginAccess::kHearsay;
    Duration public_age{};  // as FetchedManifest::public_age
  };
  // Who has one in other zones is asked apart: what comes by its home is smaller, and crosses once.
  enum class From { kHere, kOtherZones };  // kHere: also whoever is in no zone, or where this node is in none
  absl::StatusOr<WholeBlob> FetchBlob(const BlobOrigin& origin, const Digest& digest, uint64_t size,
                                      Instant deadline, From from = From::kHere) const;

 private:
  // Who has sealed a blob knows it first among its ranks; what is copied is to come from near.
  enum class Nearness { kOwnZoneFirst, kByRank, kOwnZone, kOtherZones };
  absl::StatusOr<PeerClient::Answer> Ask(const Digest& key, DocumentAsking::Wanted wanted, Instant deadline,
                                         Nearness nearness = Nearness::kOwnZoneFirst) const;

  const DocumentAsking::Parts parts_;
  Telemetry& telemetry_;
};

}  // namespace sluice::p2p
