#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/daemon/registry_documents.h"
#include "node/digest.h"
#include "p2p/cluster/gate_queue.h"
#include "p2p/cluster/home_documents.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/pull_rights.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// What a mount needs beside chunks: from its home, and from the registry where this node is that itself or no
// home gives it. What is not public is given only when this node has the right to it itself, whoever has
// fetched it.
//
// Thread-safe. Calls without a callback block: not on the registry client's threads, the peer client's or the
// I/O pool's. Errors: those of RegistryClient.
class ImageDocuments {
 public:
  // Nobody can check what somebody else says of a tag.
  enum class Tags { kFromRegistry, kFromHome };

  // The registry, for who is none of those that may ask it: in its turn. Held while something waits for that.
  struct LastResort {
    const Clock& clock;
    std::shared_ptr<p2p::GateQueue> queue;
  };
  // What counts for one whose size nobody knows before.
  static constexpr uint64_t kSizeUnknown = 64 << 10;

  // All outlive this. `homes` is null on a node without members, `rights` where they are not proven.
  ImageDocuments(RegistryDocuments& registry, const p2p::HomeDocuments* homes, Tags tags,
                 p2p::PullRights* rights = nullptr, std::optional<LastResort> last_resort = std::nullopt)
      : registry_(registry),
        homes_(homes),
        tags_(tags),
        rights_(rights),
        last_resort_(std::move(last_resort)) {}

  absl::StatusOr<p2p::FetchedManifest> Manifest(const BlobOrigin& origin, const std::string& tag_or_digest);
  // REQUIRES: bytes_max <= RegistryDocuments::kBlobBytesMax
  absl::StatusOr<std::string> Blob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max);
  // The same, and the whole index of referrers; called exactly once, and must not block.
  using Done = absl::AnyInvocable<void(absl::StatusOr<p2p::FetchedManifest>) &&>;
  void Manifest(const BlobOrigin& origin, const std::string& tag_or_digest, Done done);
  void Referrers(const BlobOrigin& origin, const Digest& manifest, Done done);
  void Blob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max, Done done);
  // For what this node, or another one by that right, is about to read: that is what it needs a right for.
  void Table(const BlobOrigin& origin, const StoredForm& stored, const Grant& grant, Done done);

  // Whether this node may use something of a repository that is here, or that other nodes gave, and that is
  // not public: it may have come by another node's right. `path` as PullRights has it. Where members are not
  // proven all is this node's own. Errors: Unauthenticated, PermissionDenied, NotFound, and those of
  // RegistryClient. The first comes exactly once, and must not block.
  using OnProven = absl::AnyInvocable<void(absl::Status) &&>;
  void ProveRight(const BlobOrigin& origin, const std::string& path, OnProven on_proven);
  absl::Status ProveRight(const BlobOrigin& origin, const std::string& path);

 private:
  using FromHome = absl::AnyInvocable<void(const p2p::HomeDocuments&, Done) &&>;
  using FromRegistry = absl::AnyInvocable<void(RegistryDocuments&, RegistryDocuments::Done) &&>;
  RegistryDocuments::Freshness Lately() const;
  void Get(FromHome from_home, FromRegistry from_registry, uint64_t bytes, Done done);
  void AwaitTurn(FromRegistry from_registry, uint64_t bytes, Done done);
  // Gives on what this node may have.
  Done Proven(const BlobOrigin& origin, std::string path, Done done);

  RegistryDocuments& registry_;
  const p2p::HomeDocuments* const homes_;
  const Tags tags_;
  p2p::PullRights* const rights_;
  const std::optional<LastResort> last_resort_;
};

}  // namespace sluice
