#include "node/daemon/mirror.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "p2p/registry/manifest.h"

namespace sluice {
namespace {

using api::MirrorDocument;
using api::MirrorRefusal;
using api::MirrorRequest;
using Kind = MirrorRequest::Kind;
using Why = MirrorRefusal::Why;

// The same for what is kept here and for what is not, so that nobody hears which it is.
Why WhyOf(const absl::Status& error) {
  return absl::IsUnavailable(error) ? Why::kOriginAway : Why::kAbsent;
}

}  // namespace

void KnownBlobs::Put(const BlobOrigin& origin, const Digest& digest, Fact fact) {
  const Name name{origin, digest};
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(name); found != entries_.end()) {
    fact.access = Stronger(found->second->second.access, fact.access);
    fact.public_at_ms = std::max(found->second->second.public_at_ms, fact.public_at_ms);
    fact.passed_at = std::max(found->second->second.passed_at, fact.passed_at);
    order_.erase(found->second);
    entries_.erase(found);
  }
  order_.emplace_front(name, fact);
  entries_[name] = order_.begin();
  if (order_.size() <= kEntriesMax) return;
  entries_.erase(order_.back().first);
  order_.pop_back();
}

std::optional<KnownBlobs::Fact> KnownBlobs::Find(const BlobOrigin& origin, const Digest& digest) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find({origin, digest});
  if (found == entries_.end()) return std::nullopt;
  order_.splice(order_.begin(), order_, found->second);
  return found->second->second;
}

bool GivenManifests::Put(const BlobOrigin& origin, const ManifestCache::Kept& manifest, Instant read_at) {
  const std::lock_guard lock(mutex_);
  const size_t bytes = manifest.manifest.body.size();
  const auto [found, is_new] = entries_.try_emplace({origin, manifest.manifest.digest});
  Given& entry = found->second;
  if (!is_new && entry.read_at >= read_at && entry.manifest.manifest.access == manifest.manifest.access &&
      entry.manifest.public_at_ms == manifest.public_at_ms)
    return false;
  if (is_new) bytes_ += bytes;
  entry = {manifest, read_at};
  if (bytes_ > kBytesMax || entries_.size() > kEntriesMax) {
    entries_.clear();
    bytes_ = 0;
  }
  return true;
}

std::optional<GivenManifests::Given> GivenManifests::Find(const BlobOrigin& origin, const Digest& digest,
                                                          Instant now) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find({origin, digest});
  if (found == entries_.end() || now - found->second.read_at >= kAgeMax) return std::nullopt;
  return found->second;
}

// A request that is being answered, once.
struct Mirror::Asked {
  const MirrorRequest request;
  Instant read_at;  // what it is answered with was not read before

  std::mutex mutex;
  OnAnswer on_answer;  // guarded by mutex; null: answered
  std::atomic<Why> when_late{Why::kAbsent};
  // The steps that use these follow one another.
  bool is_given = false;  // by what the registry said of who asks
  Grant grant = nullptr;  // his, by which it is asked for; null: this node's own right

  const BlobOrigin& origin() const { return request.origin; }
  void Say(Answer answer) {
    OnAnswer say;
    {
      const std::lock_guard lock(mutex);
      say = std::exchange(on_answer, nullptr);
    }
    if (say) std::move(say)(std::move(answer));
  }
  bool IsAnswered() {
    const std::lock_guard lock(mutex);
    return on_answer == nullptr;
  }
  void Refuse(Why why) { Say(MirrorRefusal{why}); }
};

Mirror::Mirror(Parts parts, Options options)
    : parts_(parts), options_(options), tenants_(parts.blobs.clock, parts.registry, parts.blobs.telemetry) {}

// Null: it is refused already.
Mirror::AskedPtr Mirror::Begin(MirrorRequest request, OnAnswer on_answer) {
  const AskedPtr asked(new Asked{.request = std::move(request),
                                 .read_at = parts_.blobs.clock.Now(),
                                 .mutex = {},
                                 .on_answer = std::move(on_answer)});
  if (!parts_.allowed.Permits(asked->origin()).ok()) {
    asked->Refuse(Why::kAbsent);
    return nullptr;
  }
  return asked;
}

void Mirror::EndInTime(const AskedPtr& asked) {
  if (asked->IsAnswered()) return;
  parts_.blobs.io.PostAt(parts_.blobs.clock.Now() + options_.budget, [weak = std::weak_ptr(asked)] {
    if (const AskedPtr late = weak.lock()) late->Refuse(late->when_late);
  });
}

// Looks at once at what may be for everybody.
void Mirror::BehindRight(const AskedPtr& asked, Given look) {
  const bool is_closed = options_.authorization == Authorization::kOrigin &&
                         parts_.registry.rights().TakesCredentials(asked->origin());
  if (!is_closed) return std::move(look)();
  IfGivenTo(asked, std::move(look));
}

// --------------------------------------------------------------------------------------------- documents

void Mirror::Document(MirrorRequest request, OnDocument on_document) {
  const AskedPtr asked = Begin(std::move(request), [say = std::move(on_document)](Answer answer) mutable {
    if (auto* const refusal = std::get_if<MirrorRefusal>(&answer)) return std::move(say)(std::move(*refusal));
    std::move(say)(std::get<MirrorDocument>(std::move(answer)));
  });
  if (!asked) return;
  BehindRight(asked, [self = shared_from_this(), asked] {
    if (std::optional<GivenManifests::Given> given = self->GivenLately(asked->request)) {
      asked->read_at = given->read_at;
      return self->JudgeDocument(asked, std::move(given->manifest));
    }
    self->parts_.blobs.io.Post([self, asked] { self->LookForManifest(asked); });
  });
  EndInTime(asked);
}

std::optional<GivenManifests::Given> Mirror::GivenLately(const MirrorRequest& request) {
  const absl::StatusOr<Digest> digest = Digest::Parse(request.reference);
  if (request.kind != Kind::kManifest || !digest.ok()) return std::nullopt;
  return given_.Find(request.origin, *digest, parts_.blobs.clock.Now());
}

void Mirror::LookForManifest(const AskedPtr& asked) {
  const absl::StatusOr<Digest> digest = Digest::Parse(asked->request.reference);
  if (asked->request.kind == Kind::kManifest && digest.ok()) {
    absl::StatusOr<ManifestCache::Kept> here = parts_.manifests.Find({asked->origin(), "", *digest});
    if (here.ok() && here->manifest.digest == *digest) return JudgeDocument(asked, *std::move(here));
  }
  AskForDocument(asked);
}

void Mirror::AskForDocument(const AskedPtr& asked) {
  if (asked->grant) return AskForDocumentBy(asked->grant, asked);
  if (tenants_.IsOwnRefused(asked->origin())) return GoOnByTheirs(asked, Why::kAbsent);
  auto then = [self = shared_from_this(), asked](Fetched fetched) {
    // Manifests are kept on disk.
    self->parts_.blobs.io.Post([self, asked, fetched = std::move(fetched)]() mutable {
      if (fetched.ok() && asked->request.kind == Kind::kManifest) {
        const std::string& reference = asked->request.reference;
        const int64_t public_at_ms = self->PublicAt(*fetched);
        self->parts_.manifests.Put({asked->origin(), "", fetched->digest}, *fetched, public_at_ms)
            .IgnoreError();
        if (!Digest::Parse(reference).ok())
          self->parts_.manifests.Put({asked->origin(), reference, std::nullopt}, *fetched, public_at_ms)
              .IgnoreError();
      }
      self->OnDocumentFetched(asked, std::move(fetched));
    });
  };
  if (asked->request.kind == Kind::kReferrers)
    return parts_.documents.Referrers(asked->origin(), *Digest::Parse(asked->request.reference),
                                      std::move(then));
  parts_.documents.Manifest(asked->origin(), asked->request.reference, std::move(then));
}

// What is had so is this one's to have, and nothing that this node may give by itself later.
void Mirror::AskForDocumentBy(const Grant& grant, const AskedPtr& asked) {
  auto then = [self = shared_from_this(), asked](Fetched fetched) {
    self->OnDocumentFetched(asked, std::move(fetched));
  };
  const std::string& reference = asked->request.reference;
  if (asked->request.kind == Kind::kReferrers)
    return parts_.registry.FetchReferrers(asked->origin(), *Digest::Parse(reference), std::move(then), grant);
  parts_.registry.FetchManifest(asked->origin(), reference, AcceptedManifests(), std::move(then), grant);
}

void Mirror::OnDocumentFetched(const AskedPtr& asked, Fetched fetched) {
  if (fetched.ok()) {
    const int64_t public_at_ms = PublicAt(*fetched);
    return JudgeDocument(asked, {*std::move(fetched), public_at_ms});
  }
  const bool is_tag = !Digest::Parse(asked->request.reference).ok();
  if (is_tag && options_.stale_tags == StaleTags::kYes &&
      (absl::IsUnavailable(fetched.status()) || absl::IsDeadlineExceeded(fetched.status()))) {
    absl::StatusOr<ManifestCache::Kept> kept =
        parts_.manifests.Find({asked->origin(), asked->request.reference, std::nullopt});
    if (kept.ok()) return JudgeDocument(asked, *std::move(kept));
  }
  OnError(asked, fetched.status());
}

// What a member gave it knows to be public since some time ago.
int64_t Mirror::PublicAt(const p2p::FetchedManifest& manifest) const {
  const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(manifest.public_age);
  return std::max<int64_t>(options_.wall_clock_ms() - age.count(), 1);
}

void Mirror::JudgeDocument(const AskedPtr& asked, ManifestCache::Kept document) {
  const Finding finding{document.manifest.access, document.public_at_ms};
  const std::string name = document.manifest.digest.ToString();
  IfAllowed(asked, name, finding,
            [self = shared_from_this(), asked, document = std::move(document)](int64_t public_at_ms) mutable {
              if (std::exchange(document.public_at_ms, public_at_ms) == public_at_ms)
                return self->AskPolicy(asked, std::move(document));
              // Manifests are kept on disk.
              self->parts_.blobs.io.Post([self, asked, document = std::move(document)]() mutable {
                const p2p::ImageReference named{asked->origin(), "", document.manifest.digest};
                self->parts_.manifests.Put(named, document.manifest, document.public_at_ms).IgnoreError();
                self->AskPolicy(asked, std::move(document));
              });
            });
}

// Of who may have the image, whether anybody may.
void Mirror::AskPolicy(const AskedPtr& asked, ManifestCache::Kept document) {
  if (!parts_.policy || asked->request.kind != Kind::kManifest)
    return GiveDocument(asked, std::move(document));
  const std::string& reference = asked->request.reference;
  const absl::StatusOr<Digest> digest = Digest::Parse(reference);
  const p2p::ImageReference name = digest.ok()
                                       ? p2p::ImageReference{asked->origin(), "", *digest}
                                       : p2p::ImageReference{asked->origin(), reference, std::nullopt};
  const p2p::FetchedManifest manifest = document.manifest;
  parts_.policy->Ask(
      asked->origin(), name.ToString(), manifest,
      [self = shared_from_this(), asked, document = std::move(document)](absl::Status said) mutable {
        if (said.ok()) return self->GiveDocument(asked, std::move(document));
        asked->Refuse(absl::IsResourceExhausted(said) ? Why::kBusy : Why::kForbidden);
      });
}

void Mirror::GiveDocument(const AskedPtr& asked, ManifestCache::Kept document) {
  if (asked->request.kind == Kind::kManifest && given_.Put(asked->origin(), document, asked->read_at))
    Remember(*asked, document);
  p2p::FetchedManifest& manifest = document.manifest;
  asked->Say(MirrorDocument{std::move(manifest.media_type), manifest.digest, std::move(manifest.body)});
}

// What a manifest names is in its repository, and can be asked for by who can read it.
void Mirror::Remember(const Asked& asked, const ManifestCache::Kept& document) {
  const p2p::FetchedManifest& manifest = document.manifest;
  const absl::StatusOr<p2p::Manifest> parsed = p2p::ParseManifest(manifest.body, manifest.media_type);
  if (!parsed.ok()) return;
  const auto* const image = std::get_if<p2p::ImageManifest>(&*parsed);
  if (!image) return;
  KnownBlobs::Fact fact{0, manifest.access, document.public_at_ms, parts_.blobs.clock.Now(),
                        /*by_theirs=*/asked.grant != nullptr};
  const auto put = [&](const p2p::Descriptor& blob) {
    fact.size = blob.size;
    known_.Put(asked.origin(), blob.digest, fact);
  };
  put(image->config);
  for (const p2p::Descriptor& layer : image->layers) put(layer);
}

// ------------------------------------------------------------------------------------------------- blobs

void Mirror::Blob(MirrorRequest request, OnBlob on_blob) {
  const AskedPtr asked = Begin(std::move(request), [say = std::move(on_blob)](Answer answer) mutable {
    if (auto* const refusal = std::get_if<MirrorRefusal>(&answer)) return std::move(say)(std::move(*refusal));
    std::move(say)(std::get<std::shared_ptr<api::MirrorBlob>>(std::move(answer)));
  });
  if (!asked) return;
  BehindRight(asked, [self = shared_from_this(), asked] { self->LookForBlob(asked); });
  EndInTime(asked);
}

void Mirror::LookForBlob(const AskedPtr& asked) {
  const Digest digest = *Digest::Parse(asked->request.reference);
  if (!PassesPolicy(asked->origin(), digest)) return asked->Refuse(Why::kAbsent);
  if (const std::optional<KnownBlobs::Fact> fact = KnownOf(asked->origin(), digest))
    return GiveBlob(asked, *fact);
  if (!asked->grant && tenants_.IsOwnRefused(asked->origin())) return GoOnByTheirs(asked, Why::kAbsent);
  parts_.registry.StatBlob(
      asked->origin(), digest,
      [self = shared_from_this(), asked, digest](absl::StatusOr<p2p::RegistryClient::BlobStat> stat) {
        if (!stat.ok()) return self->OnError(asked, stat.status());
        const KnownBlobs::Fact fact{.size = stat->size,
                                    .access = stat->access,
                                    .public_at_ms = self->options_.wall_clock_ms(),
                                    .by_theirs = asked->grant != nullptr};
        self->known_.Put(asked->origin(), digest, fact);
        self->GiveBlob(asked, fact);
      },
      asked->grant);
}

// Only what came from that very repository says that it is there.
std::optional<KnownBlobs::Fact> Mirror::KnownOf(const BlobOrigin& origin, const Digest& digest) {
  std::optional<KnownBlobs::Fact> fact = known_.Find(origin, digest);
  for (const BlobKey& key : parts_.blobs.store.KeysOf(digest)) {
    const OriginAccess access = parts_.blobs.store.AccessOf(key, origin);
    const std::shared_ptr<sluice::Blob> blob = parts_.blobs.store.Find(key);
    if (access == OriginAccess::kUnknown || !blob || blob->refused()) continue;
    if (!fact) fact = KnownBlobs::Fact{blob->geometry().size(), access};
    fact->access = Stronger(fact->access, access);
    fact->public_at_ms = std::max(fact->public_at_ms, parts_.blobs.store.FoundPublicAt(key, origin));
  }
  return fact;
}

void Mirror::GiveBlob(const AskedPtr& asked, KnownBlobs::Fact fact) {
  const std::string& name = asked->request.reference;
  IfAllowed(asked, name, {fact.access, fact.public_at_ms},
            [self = shared_from_this(), asked, fact](int64_t public_at_ms) mutable {
              // The empty blob has nothing to keep.
              if (fact.size == 0) return asked->Refuse(Why::kAbsent);
              BlobSpec spec;
              spec.digest = *Digest::Parse(asked->request.reference);
              spec.size = fact.size;
              spec.origins = {asked->origin()};
              if (!ChunkGeometry::Validate(spec.size, spec.chunk_size).ok() || !self->Fits(spec))
                return asked->Refuse(Why::kAbsent);
              if (public_at_ms != fact.public_at_ms) {
                fact.public_at_ms = public_at_ms;
                self->known_.Put(asked->origin(), spec.digest, fact);
              }
              const CachedMirrorBlob::Limits limits{self->options_.budget, self->options_.read_timeout};
              asked->Say(std::shared_ptr<api::MirrorBlob>(std::make_shared<CachedMirrorBlob>(
                  self->parts_.blobs, limits, std::move(spec), Finding{fact.access, public_at_ms},
                  self->RightFor(*asked, fact))));
            });
}

// What can't be kept is of no use to anybody here, and would take the room of all that is.
bool Mirror::Fits(const BlobSpec& spec) const {
  const auto capacity = static_cast<uint64_t>(parts_.blobs.telemetry.cache_capacity_bytes.value());
  if (capacity == 0 || spec.size <= capacity) return true;
  spdlog::info("{} of {} bytes is left to its registry: the store may take up {}", spec.digest.ToString(),
               spec.size, capacity);
  return false;
}

CachedMirrorBlob::Right Mirror::RightFor(const Asked& asked, const KnownBlobs::Fact& fact) {
  Grant grant = asked.grant;
  if (!grant && asked.is_given && (fact.by_theirs || tenants_.IsOwnRefused(asked.origin())))
    grant = tenants_.RightOf(asked.request);
  if (!grant) return {};
  // What he shows may have come to its end in the middle of a pull.
  return {std::move(grant), [weak = weak_from_this(), request = asked.request] {
            if (const auto self = weak.lock()) self->tenants_.Forget(request);
          }};
}

// ------------------------------------------------------------------------------------------- who may have it

// What was found out in what is the future now was found out by a clock that was wrong.
bool Mirror::IsFresh(const Finding& finding) const {
  const int64_t age_ms = options_.wall_clock_ms() - finding.at_ms;
  return age_ms >= 0 && std::chrono::milliseconds(age_ms) < options_.public_ttl;
}

bool Mirror::PassesPolicy(const BlobOrigin& origin, const Digest& digest) {
  if (!parts_.policy) return true;
  const std::optional<KnownBlobs::Fact> fact = known_.Find(origin, digest);
  return fact && fact->passed_at != Instant() && parts_.blobs.clock.Now() - fact->passed_at < kPassedFor;
}

void Mirror::IfAllowed(const AskedPtr& asked, const std::string& name, Finding finding, Then then) {
  if (!IsPublic(finding.access)) {
    return IfGivenTo(asked, [then = std::move(then), finding]() mutable { std::move(then)(finding.at_ms); });
  }
  if (IsFresh(finding)) return std::move(then)(finding.at_ms);
  IfStillPublic(asked, name, finding, std::move(then));
}

void Mirror::IfStillPublic(const AskedPtr& asked, const std::string& name, Finding finding, Then then) {
  asked->when_late = Why::kOriginAway;
  auto judge = [self = shared_from_this(), asked, finding,
                then = std::move(then)](const absl::StatusOr<OriginAccess>& access) mutable {
    const absl::Status& status = access.status();
    if (status.ok() && IsPublic(*access)) return std::move(then)(self->options_.wall_clock_ms());
    // It is not any more; or this node may not have it, and who asks may.
    if (absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status))
      self->tenants_.NoteOwnRefused(asked->origin());
    if (status.ok() || absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status))
      return self->IfGivenTo(asked,
                             [then = std::move(then), finding]() mutable { std::move(then)(finding.at_ms); });
    if (absl::IsNotFound(status)) return asked->Refuse(Why::kAbsent);
    asked->Refuse(absl::IsResourceExhausted(status) ? Why::kBusy : Why::kOriginAway);
  };
  if (asked->request.kind == Kind::kBlob) {
    parts_.registry.StatBlob(
        asked->origin(), *Digest::Parse(name),
        [judge = std::move(judge)](absl::StatusOr<p2p::RegistryClient::BlobStat> stat) mutable {
          judge(stat.ok() ? absl::StatusOr<OriginAccess>(stat->access) : stat.status());
        });
    return;
  }
  parts_.registry.FetchManifest(
      asked->origin(), name, AcceptedManifests(), [judge = std::move(judge)](Fetched fetched) mutable {
        judge(fetched.ok() ? absl::StatusOr<OriginAccess>(fetched->access) : fetched.status());
      });
}

// Without the registry a tag means nothing, unless old ones will do.
bool Mirror::MayBeHere(const Asked& asked) const {
  return Digest::Parse(asked.request.reference).ok() || options_.stale_tags == StaleTags::kYes;
}

void Mirror::IfGivenTo(const AskedPtr& asked, Given given) {
  if (options_.authorization == Authorization::kOpen) return IfOwn(asked, std::move(given));
  if (asked->is_given) return std::move(given)();
  tenants_.Ask(asked->request, options_.budget,
               [asked, may_be_here = MayBeHere(*asked),
                given = std::move(given)](std::optional<MirrorRefusal> refusal) mutable {
                 if (refusal && refusal->why == Why::kOriginAway && !may_be_here) refusal->why = Why::kAbsent;
                 if (refusal) return asked->Say(*std::move(refusal));
                 asked->is_given = true;
                 std::move(given)();
               });
}

// What is here may have come by another node's right.
void Mirror::IfOwn(const AskedPtr& asked, Given given) {
  const MirrorRequest& request = asked->request;
  const std::string path =
      absl::StrCat(request.kind == Kind::kBlob ? "/blobs/" : "/manifests/", request.reference);
  parts_.documents.ProveRight(asked->origin(), path,
                              [asked, given = std::move(given)](const absl::Status& right) mutable {
                                if (!right.ok()) return asked->Refuse(WhyOf(right));
                                std::move(given)();
                              });
}

void Mirror::GoOnByTheirs(const AskedPtr& asked, Why why) {
  IfGivenTo(asked, [self = shared_from_this(), asked, why] {
    asked->grant = self->tenants_.RightOf(asked->request);
    if (!asked->grant) return asked->Refuse(why);
    if (asked->request.kind == Kind::kBlob) return self->LookForBlob(asked);
    self->AskForDocument(asked);
  });
}

void Mirror::OnError(const AskedPtr& asked, const absl::Status& status) {
  if (absl::IsResourceExhausted(status)) return asked->Refuse(Why::kBusy);
  const bool refused = absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status);
  const Why why = MayBeHere(*asked) ? WhyOf(status) : Why::kAbsent;
  // That it is nowhere may be a secret, too: who asks is to hear of either what the registry says to him.
  const bool hides = refused || (absl::IsNotFound(status) && !p2p::IsToldToEverybody(status));
  if (!hides || options_.authorization == Authorization::kOpen) return asked->Refuse(why);
  // His right was refused: what the registry said of it before counts no more.
  if (asked->grant && refused) tenants_.Forget(asked->request);
  if (asked->grant) return asked->Refuse(why);
  if (refused) tenants_.NoteOwnRefused(asked->origin());
  GoOnByTheirs(asked, why);
}

}  // namespace sluice
