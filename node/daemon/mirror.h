#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/functional/any_invocable.h"
#include "api/http/mirror_content.h"
#include "node/blob.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/image_policy.h"
#include "node/daemon/manifest_cache.h"
#include "node/daemon/mirror_blob.h"
#include "node/daemon/mirror_tenants.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "node/wall_clock.h"
#include "p2p/registry/allow_list.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// How big blobs are and what it took to hear of them, as manifests or registries said lately. Bounded: what
// was used longest ago goes first.
//
// Thread-safe.
class KnownBlobs {
 public:
  static constexpr size_t kEntriesMax = 1 << 16;

  struct Fact {
    uint64_t size = 0;
    OriginAccess access = OriginAccess::kUnknown;
    int64_t public_at_ms = 0;  // as DiskStore::FoundPublicAt
    Instant passed_at{};       // when the policy last let an image of that repository pass that has it
    bool by_theirs = false;    // by the right of who asked, as this node had none
  };
  void Put(const BlobOrigin& origin, const Digest& digest, Fact fact);
  std::optional<Fact> Find(const BlobOrigin& origin, const Digest& digest);

 private:
  using Name = std::pair<BlobOrigin, Digest>;
  using Order = std::list<std::pair<Name, Fact>>;  // used last first

  std::mutex mutex_;
  // Guarded by mutex_.
  Order order_;
  std::map<Name, Order::iterator> entries_;
};

// The manifests that were given lately, so that a crowd that asks for one does not read it from disk each
// time. Each is forgotten kAgeMax after it was read: what becomes of the files is seen then.
//
// Thread-safe.
class GivenManifests {
 public:
  static constexpr Duration kAgeMax = std::chrono::seconds(5);
  static constexpr size_t kBytesMax = 8 << 20;
  static constexpr size_t kEntriesMax = 1024;

  struct Given {
    ManifestCache::Kept manifest;
    Instant read_at;
  };
  // Whether that was not known yet. Beyond the bounds all are forgotten.
  bool Put(const BlobOrigin& origin, const ManifestCache::Kept& manifest, Instant read_at);
  std::optional<Given> Find(const BlobOrigin& origin, const Digest& digest, Instant now);

 private:
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::pair<BlobOrigin, Digest>, Given> entries_;
  size_t bytes_ = 0;
};

// A mirror of all registries that this node may ask: ordinary images too come through its store, the other
// nodes and the homes. Tags are asked of the registry (see ImageDocuments). What was found public not longer
// ago than `public_ttl` is given to everybody who can connect; what was longer ago is asked of the registry
// again, without credentials. For anything else the registry is asked what it gives to who asks, before what
// is cached here is given; of a repository that is known to take credentials, before it is looked for. While
// it can't be reached, neither is. Who gets nothing is told the same, and as soon, whatever is here or there.
// What this node may not have itself is fetched by the right of who asks, and its manifest is kept nowhere.
// With a policy blobs are given of those images alone that it let pass here.
//
// Thread-safe. Held by a shared pointer. The parts outlive it and what it has begun.
class Mirror final : public api::MirrorContent, public std::enable_shared_from_this<Mirror> {
 public:
  // kOpen: what this node may have is given to everybody who can connect.
  enum class Authorization { kOrigin, kOpen };
  // Whether a tag may mean what it meant last while the registry is away.
  enum class StaleTags { kNo, kYes };
  // How long the blobs of an image that the policy let pass are given: no pull takes longer.
  static constexpr Duration kPassedFor = std::chrono::hours(1);

  struct Parts {
    CachedMirrorBlob::Parts blobs;
    const p2p::AllowList& allowed;
    p2p::RegistryClient& registry;
    ImageDocuments& documents;
    ManifestCache& manifests;
    ImagePolicy* policy = nullptr;  // null: every image may be had
  };
  struct Options {
    Authorization authorization = Authorization::kOrigin;
    StaleTags stale_tags = StaleTags::kNo;
    // To give a document, or the first bytes of a blob; beyond, the runtime is sent to the registry.
    Duration budget = std::chrono::seconds(5);
    Duration read_timeout = std::chrono::seconds(30);  // for the next bytes of a blob
    Duration public_ttl = std::chrono::hours(24);      // beyond, what was public is asked for again
    std::function<int64_t()> wall_clock_ms = SystemWallClockMs;
  };
  Mirror(Parts parts, Options options);

  void Document(api::MirrorRequest request, OnDocument on_document) override;
  void Blob(api::MirrorRequest request, OnBlob on_blob) override;

 private:
  struct Asked;
  using AskedPtr = std::shared_ptr<Asked>;
  using Answer = std::variant<api::MirrorRefusal, api::MirrorDocument, std::shared_ptr<api::MirrorBlob>>;
  using OnAnswer = absl::AnyInvocable<void(Answer) &&>;
  using Fetched = absl::StatusOr<p2p::FetchedManifest>;
  // Whoever asks may have it; when it was found public, as DiskStore::FoundPublicAt.
  using Then = absl::AnyInvocable<void(int64_t public_at_ms) &&>;

  AskedPtr Begin(api::MirrorRequest request, OnAnswer on_answer);
  // Unless it is answered already.
  void EndInTime(const AskedPtr& asked);
  // By what the registry says of who asks.
  using Given = absl::AnyInvocable<void() &&>;
  void BehindRight(const AskedPtr& asked, Given look);
  std::optional<GivenManifests::Given> GivenLately(const api::MirrorRequest& request);
  void LookForManifest(const AskedPtr& asked);
  void AskForDocument(const AskedPtr& asked);
  void AskForDocumentBy(const Grant& grant, const AskedPtr& asked);
  void OnDocumentFetched(const AskedPtr& asked, Fetched fetched);
  int64_t PublicAt(const p2p::FetchedManifest& manifest) const;
  void JudgeDocument(const AskedPtr& asked, ManifestCache::Kept document);
  void AskPolicy(const AskedPtr& asked, ManifestCache::Kept document);
  void GiveDocument(const AskedPtr& asked, ManifestCache::Kept document);
  void Remember(const Asked& asked, const ManifestCache::Kept& document);

  void LookForBlob(const AskedPtr& asked);
  std::optional<KnownBlobs::Fact> KnownOf(const BlobOrigin& origin, const Digest& digest);
  void GiveBlob(const AskedPtr& asked, KnownBlobs::Fact fact);
  bool Fits(const BlobSpec& spec) const;
  CachedMirrorBlob::Right RightFor(const Asked& asked, const KnownBlobs::Fact& fact);

  using Finding = CachedMirrorBlob::Finding;
  bool IsFresh(const Finding& finding) const;
  // Goes on if who asks may have what that was found out of. `name`: of the manifest or blob, for the
  // registry.
  void IfAllowed(const AskedPtr& asked, const std::string& name, Finding finding, Then then);
  void IfStillPublic(const AskedPtr& asked, const std::string& name, Finding finding, Then then);
  // Whether an image that has the blob was let pass lately, where somebody decides that.
  bool PassesPolicy(const BlobOrigin& origin, const Digest& digest);
  bool MayBeHere(const Asked& asked) const;
  void IfGivenTo(const AskedPtr& asked, Given given);
  void IfOwn(const AskedPtr& asked, Given given);
  // Goes on by the right of who asks, where this node has none; `why`: if he has none either.
  void GoOnByTheirs(const AskedPtr& asked, api::MirrorRefusal::Why why);
  // This node got an error; what it means to who asks.
  void OnError(const AskedPtr& asked, const absl::Status& status);

  const Parts parts_;
  const Options options_;
  MirrorTenants tenants_;
  KnownBlobs known_;
  GivenManifests given_;
};

}  // namespace sluice
