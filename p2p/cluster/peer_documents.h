#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/executor.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/recipe/recipe.h"
#include "p2p/registry/registry_client.h"

namespace sluice::p2p {

// What a mount needs beside chunks, from other nodes that have it: each checked against its digest, a recipe
// against the root that binds it. Members are asked one after the other, by the ranks of the digest; and the
// next beside one that says nothing, long before that counts as silent, for a mount waits.
//
// Thread-safe; blocks. Errors of all: NotFound (no member that was asked gave it).
class PeerDocumentClient {
 public:
  static constexpr size_t kMembersAskedMax = 8;
  static constexpr uint64_t kWholeBlobBytesMax = 64 << 20;        // held in memory until its digest is known
  static constexpr Duration kTimeout = std::chrono::seconds(10);  // of all members, for a manifest or recipe
  static constexpr Duration kSealedTimeout = std::chrono::seconds(1);

  struct Parts {
    const Clock& clock;
    Members& members;
    MemberHealth& health;
    PeerClient& client;
    Telemetry& telemetry;
    std::function<void(const std::string&)> warn;
    // Beside a member that has said nothing for so long the next one is asked.
    static constexpr Duration kLateAfter = std::chrono::milliseconds(500);
    Duration late_after = kLateAfter;
  };
  // The parts outlive the client.
  explicit PeerDocumentClient(Parts parts) : parts_(std::move(parts)) {}

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
  };
  absl::StatusOr<WholeBlob> FetchBlob(const BlobOrigin& origin, const Digest& digest, uint64_t size,
                                      Instant deadline) const;

 private:
  class Answers;
  // Asks members until `take` accepts an answer.
  using Take = std::function<absl::Status(const PeerClient::Answer&)>;
  absl::Status Ask(const Digest& key, const std::string& path, uint64_t bytes_max, Instant deadline,
                   const Take& take) const;
  void Begin(const Member& member, size_t index, PeerClient::Question question,
             const std::shared_ptr<Answers>& answers) const;
  static void NoteFailure(const Parts& parts, const std::string& member, const std::string& path,
                          const absl::Status& why);

  const Parts parts_;
};

}  // namespace sluice::p2p
