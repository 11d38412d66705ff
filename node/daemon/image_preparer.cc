#include "node/daemon/image_preparer.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "ondemand/erofs_image.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/frame_decoder.h"

namespace sluice {
namespace {

constexpr uint64_t kBootstrapBytesMax = uint64_t{4} << 30;
constexpr Duration kCancelCheck = std::chrono::milliseconds(100);
constexpr Duration kRightAskMax = std::chrono::seconds(15);  // for one blob
constexpr uint64_t kSampleBytes = 4096;
constexpr int kSampleDraws = 64;

// Holes and padding can be foreseen.
bool IsUniform(const std::string& bytes) {
  return bytes.empty() || bytes.find_first_not_of(bytes.front()) == std::string::npos;
}

// Whether it is read from its start: a bootstrap, or a device of one chunk.
bool IsWhole(const StoredForm& stored) {
  return !stored.seek_table;
}

// Cuts what comes in order into chunks, and tells each.
class ChunkCutter {
 public:
  using OnChunk = absl::AnyInvocable<absl::Status(ChunkIndex, Buffer)>;
  ChunkCutter(const ChunkGeometry& geometry, OnChunk on_chunk)
      : geometry_(geometry), on_chunk_(std::move(on_chunk)) {}

  // Errors: those of `on_chunk`. REQUIRES: no more comes than the blob has
  absl::Status Take(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      if (filled_ == 0) chunk_ = Buffer(geometry_.RangeOf(index_).length);
      const size_t n = std::min(bytes.size(), chunk_.size() - filled_);
      std::memcpy(chunk_.data() + filled_, bytes.data(), n);
      filled_ += n;
      bytes = bytes.subspan(n);
      if (filled_ < chunk_.size()) break;
      filled_ = 0;
      absl::Status taken = on_chunk_(std::exchange(index_, index_.next()), std::move(chunk_));
      if (!taken.ok()) return taken;
    }
    return absl::OkStatus();
  }

 private:
  const ChunkGeometry& geometry_;
  OnChunk on_chunk_;
  ChunkIndex index_{0};
  Buffer chunk_;
  size_t filled_ = 0;
};

}  // namespace

absl::Status RefusedBlob(const Digest& digest) {
  return absl::DataLossError(
      absl::StrCat("blob ", digest.ToString(),
                   " did not match its digest; unmount what uses it, then \"sluice blob evict ",
                   digest.ToString(), "\" lets it be fetched anew"));
}

absl::StatusOr<std::string> StoreImagePreparer::Check(const std::string& reference) const {
  const absl::StatusOr<p2p::ImageReference> parsed = parts_.resolver.Check(reference);
  if (!parsed.ok()) return parsed.status();
  return parsed->ToString();
}

absl::StatusOr<ResolvedImage> StoreImagePreparer::Resolve(const std::string& reference,
                                                          const p2p::Platform& platform) {
  return parts_.resolver.Resolve(reference, platform);
}

absl::StatusOr<PreparedImage> StoreImagePreparer::Prepare(const ResolvedImage& image,
                                                          const PrepareBounds& bounds) {
  const std::string reference = image.reference.ToString();
  const BlobSpec& bootstrap = image.image.bootstrap;
  if (bootstrap.size > kBootstrapBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the bootstrap of ", reference, " has ", bootstrap.size,
                                                   " bytes; at most ", kBootstrapBytesMax, " are taken"));
  }
  const Instant began = parts_.clock.Now();
  // A file that somebody has removed is made anew, but not under a mount.
  CheckFiles(bootstrap.digest);
  for (const BlobSpec& spec : image.image.blobs) CheckFiles(spec.digest);
  // Either is of no use without the other.
  std::atomic<bool> failed{false};
  PrepareBounds both = bounds;
  both.cancelled = CancelCheck([&] { return bounds.cancelled || failed; });
  Instant has_bootstrap;
  std::future<absl::StatusOr<Blob::Lease>> coming = std::async(std::launch::async, [&] {
    absl::StatusOr<Blob::Lease> lease = PrepareBootstrap(bootstrap, image.image.blobs, both);
    has_bootstrap = parts_.clock.Now();
    if (!lease.ok()) failed = true;
    return lease;
  });
  absl::StatusOr<PreparedImage> prepared = PrepareBlobs(image, both);
  const Instant has_blobs = parts_.clock.Now();
  if (!prepared.ok()) failed = true;
  absl::StatusOr<Blob::Lease> lease = coming.get();
  // What has failed has told the other to stop, which says no more than that.
  if (!lease.ok() && (prepared.ok() || !absl::IsCancelled(lease.status()))) return lease.status();
  if (!prepared.ok()) return prepared;
  prepared->bootstrap = *std::move(lease);
  api::PrepareTimes& times = prepared->times;
  const Instant opened = began + times.blobs;
  times.bootstrap = std::max(has_bootstrap - opened, Duration(0));
  times.recipes = std::max(has_blobs - std::max(has_bootstrap, opened), Duration(0));
  return prepared;
}

absl::StatusOr<PreparedImage> StoreImagePreparer::PrepareBlobs(const ResolvedImage& image,
                                                               const PrepareBounds& bounds) {
  const Instant began = parts_.clock.Now();
  PreparedImage prepared;
  std::vector<std::shared_ptr<Blob>> blobs;
  for (const BlobSpec& spec : image.image.blobs) {
    absl::StatusOr<Blob::Lease> opened = Open(spec, bounds.deadline);
    if (!opened.ok()) return opened.status();
    parts_.store.MakeOwn(opened->blob().key());
    // Who has members asks the registry for few chunks, if for any.
    if (!parts_.peers && !parts_.by_right) parts_.origin.Expect(opened->blob());
    blobs.push_back(opened->shared());
    prepared.blobs.push_back(*std::move(opened));
  }
  prepared.times.blobs = parts_.clock.Now() - began;
  // What comes from the registry is proven when its recipe has come; what members give, only with it.
  if (!parts_.peers && bounds.on_blobs) bounds.on_blobs(blobs);
  const ImageResolver::RecipesFetched recipes =
      parts_.resolver.FetchRecipes(image.reference, image.manifest, blobs, bounds.cancelled);
  if (bounds.cancelled) return absl::CancelledError("the call was cancelled, or the node is stopping");
  if (!recipes.missing.empty()) {
    spdlog::warn("{}: chunks are served unverified until their blob is whole: {}", image.reference.ToString(),
                 recipes.missing);
  }
  prepared.times.recipe_round_trips = recipes.round_trips;
  if (parts_.peers && bounds.on_blobs) bounds.on_blobs(blobs);
  return prepared;
}

absl::StatusOr<BlobSpec> StoreImagePreparer::FindBlob(const std::string& reference, uint64_t size) {
  const absl::StatusOr<p2p::ImageReference> named = parts_.resolver.CheckBlob(reference);
  if (!named.ok()) return named.status();
  if (!named->digest) return absl::InvalidArgumentError(absl::StrCat(reference, " names no digest"));
  std::optional<BlobSpec> blob = KnownOf(named->origin, *named->digest);
  if (!blob) {
    const absl::StatusOr<uint64_t> told = parts_.resolver.AskForSize(named->origin, *named->digest);
    if (!told.ok()) return told.status();
    const absl::Status sound = ChunkGeometry::Validate(*told, kChunkSizeDefault);
    if (*told == 0 || !sound.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("blob ", reference, " has ", *told, " bytes: there is nothing to keep, or too much"));
    }
    blob = BlobSpec{.digest = *named->digest, .size = *told, .root = {}, .origins = {named->origin}};
  }
  if (size == 0 || size == blob->size) return *std::move(blob);
  return absl::InvalidArgumentError(
      absl::StrCat("blob ", reference, " has ", blob->size, " bytes, not ", size, " as the hint says"));
}

// What a manifest of that repository has said of it: how it is kept there, and what proves it.
std::optional<BlobSpec> StoreImagePreparer::KnownOf(const BlobOrigin& origin, const Digest& digest) const {
  for (const BlobKey& key : parts_.store.KeysOf(digest)) {
    const std::shared_ptr<Blob> blob = parts_.store.Find(key);
    if (!blob || blob->refused()) continue;
    BlobSpec facts = *blob->facts();
    const bool is_from_there =
        std::find(facts.origins.begin(), facts.origins.end(), origin) != facts.origins.end();
    if (!is_from_there || facts.is_hearsay) continue;
    facts.origins = {origin};
    std::erase_if(facts.stored, [&](const auto& entry) { return entry.first != origin; });
    return facts;
  }
  return std::nullopt;
}

absl::StatusOr<Blob::Lease> StoreImagePreparer::PrepareBlob(const BlobSpec& blob,
                                                            const PrepareBounds& bounds) {
  CheckFiles(blob.digest);
  return Open(blob, bounds.deadline);
}

void StoreImagePreparer::CheckFiles(const Digest& digest) {
  for (const BlobKey& key : parts_.store.KeysOf(digest)) parts_.store.CheckFile(key);
}

absl::StatusOr<Blob::Lease> StoreImagePreparer::Open(const BlobSpec& spec, Instant deadline) {
  const absl::StatusOr<std::shared_ptr<Blob>> blob = parts_.store.Open(spec);
  if (!blob.ok()) return blob.status();
  if ((*blob)->refused()) return RefusedBlob(spec.digest);
  absl::StatusOr<Blob::Lease> lease = parts_.store.Acquire((*blob)->key());
  if (!lease.ok()) return lease;
  if (lease->shared() != *blob) {
    return absl::UnavailableError(
        absl::StrCat("blob ", spec.digest.ToString(), " was evicted meanwhile; try again"));
  }
  const absl::Status right =
      spec.origins.empty() ? absl::OkStatus() : ProveRight(lease->shared(), spec.origins.front(), deadline);
  if (!right.ok()) return right;
  return lease;
}

// What this node has from another repository is read by nobody whose own repository doesn't give it: who
// knows a digest has no right to its bytes by that.
absl::Status StoreImagePreparer::ProveRight(const std::shared_ptr<Blob>& shared_blob,
                                            const BlobOrigin& origin, Instant deadline) {
  const Blob& blob = *shared_blob;
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  const bool is_of_it_alone = facts->origins.size() < 2 && !parts_.store.IsImported(blob.key());
  if (is_of_it_alone || parts_.ledger.AccessOf(blob.key(), origin) != OriginAccess::kUnknown)
    return absl::OkStatus();
  const Instant asked_until = std::min(deadline, parts_.clock.Now() + kRightAskMax);
  const StoredForm* const stored = facts->StoredAt(origin);
  const absl::StatusOr<OriginAccess> given = stored && IsWhole(*stored)
                                                 ? AskForWhole(blob, origin, *stored, asked_until)
                                                 : AskForSample(shared_blob, origin, asked_until);
  if (given.ok()) {
    parts_.ledger.NoteAccess(blob.key(), origin, *given);
    return absl::OkStatus();
  }
  if (const absl::Status forgotten = parts_.store.ForgetOrigin(blob.key(), origin); !forgotten.ok()) {
    spdlog::warn("{}/{} stays among the origins of blob {}: {}", origin.registry, origin.repository,
                 blob.digest().Short(), forgotten.ToString());
  }
  return absl::Status(given.status().code(),
                      absl::StrCat("this node has blob ", blob.digest().ToString(),
                                   " from another repository, and ", origin.registry, "/", origin.repository,
                                   " does not give it: ", std::string(given.status().message())));
}

// How the repository gives some bytes of it, which nobody can foresee who has them not: they are held against
// those that are here.
absl::StatusOr<OriginAccess> StoreImagePreparer::AskForSample(const std::shared_ptr<Blob>& shared_blob,
                                                              const BlobOrigin& origin, Instant deadline) {
  const Blob& blob = *shared_blob;
  const absl::StatusOr<index::FileDescriptor> file = parts_.store.OpenForRead(blob.key());
  if (!file.ok()) return file.status();
  absl::BitGen random;
  std::string here;
  ByteRange range;
  for (int draw = 0; draw < kSampleDraws && IsUniform(here); ++draw) {
    const ChunkIndex chunk(absl::Uniform<uint32_t>(random, 0, blob.geometry().chunk_count()));
    if (!blob.presence().IsPresent(chunk)) continue;
    range = blob.geometry().RangeOf(chunk);
    const uint64_t length = std::min<uint64_t>(kSampleBytes, range.length);
    range.offset += absl::Uniform<uint64_t>(absl::IntervalClosed, random, 0, range.length - length);
    range.length = length;
    here.resize(length);
    if (pread(file->get(), here.data(), length, static_cast<off_t>(range.offset)) !=
            static_cast<ssize_t>(length) ||
        !blob.presence().IsPresent(chunk)) {
      here.clear();
    }
  }
  if (here.empty()) return absl::UnavailableError("nothing is here yet that its bytes could be held against");
  const absl::StatusOr<ImageResolver::Given> given = AskForBytes(shared_blob, origin, range, deadline);
  if (!given.ok()) return given.status();
  if (given->bytes != here)
    return absl::PermissionDeniedError("what it gives by that digest are other bytes");
  return given->access;
}

// REQUIRES: the range is within a chunk
absl::StatusOr<ImageResolver::Given> StoreImagePreparer::AskForBytes(const std::shared_ptr<Blob>& blob,
                                                                     const BlobOrigin& origin,
                                                                     ByteRange range, Instant deadline) {
  if (!blob->facts()->StoredAt(origin)) return parts_.resolver.AskForBytes(origin, *blob, range, deadline);
  const ChunkIndex index = blob->geometry().ChunkAt(range.offset);
  const absl::StatusOr<p2p::OriginSource::GivenChunk> given =
      parts_.origin.ReadChunk(origin, blob, index, deadline);
  if (!given.ok()) return given.status();
  const size_t first = range.offset - blob->geometry().RangeOf(index).offset;
  const std::span<const std::byte> part = given->bytes.span().subspan(first, range.length);
  return ImageResolver::Given{std::string(reinterpret_cast<const char*>(part.data()), part.size()),
                              given->access};
}

// Of what can only be read from its start all is read, and held against its digest.
absl::StatusOr<OriginAccess> StoreImagePreparer::AskForWhole(const Blob& blob, const BlobOrigin& origin,
                                                             const StoredForm& stored, Instant deadline) {
  const std::atomic<bool> never{false};
  OriginAccess access = OriginAccess::kUnknown;
  p2p::Sha256 hash;
  const absl::Status read = p2p::ReadStored(
      parts_.stored_reader, origin, stored, blob.geometry().size(), {deadline, never},
      [&](OriginAccess took) { access = took; },
      [&](std::span<const std::byte> bytes) {
        hash.Update(bytes);
        return absl::OkStatus();
      });
  if (!read.ok()) return read;
  if (hash.Finish() != blob.digest())
    return absl::PermissionDeniedError("what it gives by that digest are other bytes");
  return access;
}

absl::StatusOr<Blob::Lease> StoreImagePreparer::PrepareBootstrap(const BlobSpec& spec,
                                                                 const std::vector<BlobSpec>& blobs,
                                                                 const PrepareBounds& bounds) {
  // One that was damaged when it was fetched before gets another chance; no mount uses it.
  if (const absl::StatusOr<std::shared_ptr<Blob>> known = parts_.store.Open(spec);
      known.ok() && (*known)->refused()) {
    const absl::Status evicted = parts_.store.Evict((*known)->key(), EvictReason::kCorrupt);
    if (!evicted.ok()) return evicted;
    const absl::Status discarded = parts_.discard_copies((*known)->key());
    if (!discarded.ok()) return discarded;
  }
  absl::StatusOr<Blob::Lease> lease = Open(spec, bounds.deadline);
  if (!lease.ok()) return lease;
  const BlobKey& key = lease->blob().key();
  parts_.store.MakeOwn(key);
  if (!parts_.store.IsSettled(key)) {
    const absl::Status settled = MakeSettled(*lease, bounds);
    if (absl::IsDataLoss(settled) && !lease->blob().refused()) Drop(*std::move(lease));
    if (!settled.ok()) return settled;
  }
  const absl::StatusOr<ondemand::ErofsInfo> info = ondemand::ReadErofsInfo(parts_.store.BlobPath(key));
  if (!info.ok()) return info.status();
  const absl::Status devices = ondemand::CheckErofsDevices(*info, blobs);
  if (!devices.ok()) return devices;
  return lease;
}

// What came before it was known to lie is not to fail the next who asks, whose registry may be mended.
void StoreImagePreparer::Drop(Blob::Lease bootstrap) {
  const BlobKey key = bootstrap.blob().key();
  bootstrap.Release();
  absl::Status dropped = parts_.store.Evict(key, EvictReason::kCorrupt);
  if (dropped.ok()) dropped = parts_.discard_copies(key);
  if (!dropped.ok())
    spdlog::warn("bytes of {} that lie are still here: {}", key.ToString(), dropped.ToString());
}

absl::Status StoreImagePreparer::MakeSettled(Blob::Lease& lease, const PrepareBounds& bounds) {
  // The registry gets its time too.
  const Instant now = parts_.clock.Now();
  TakeFromMembers(lease, now + (bounds.deadline - now) / 2, p2p::PeerDocumentClient::From::kHere);
  const BlobKey bootstrap = lease.blob().key();
  const absl::Status filled = TakeFromRegistry(lease.shared(), bounds);
  if (!filled.ok() && !bounds.cancelled)
    TakeFromMembers(lease, bounds.deadline, p2p::PeerDocumentClient::From::kOtherZones);
  if (!filled.ok() && !lease.blob().presence().complete()) return filled;
  const absl::StatusOr<index::VerifyReport> report = parts_.store.Verify(bootstrap, parts_.verifier);
  if (!report.ok()) return report.status();
  if (report->bad > 0 || report->unverifiable > 0) {
    return absl::DataLossError(
        absl::StrCat("bootstrap ", lease.blob().digest().ToString(), " does not match its digest"));
  }
  // Reads of metadata raise no event, so what is mounted must be on the disk for good.
  parts_.store.Flush();
  if (!parts_.store.IsSettled(bootstrap)) {
    return absl::UnavailableError(
        absl::StrCat("bootstrap ", lease.blob().digest().ToString(), " could not be kept on disk"));
  }
  return absl::OkStatus();
}

// As a whole, since a bootstrap has no recipe: only its digest proves it. What members don't give, the fill
// that follows asks the registry for.
void StoreImagePreparer::TakeFromMembers(Blob::Lease& bootstrap, Instant deadline,
                                         p2p::PeerDocumentClient::From from) {
  const std::shared_ptr<Blob>& blob = bootstrap.shared();
  if (!parts_.peers) return;
  const ChunkGeometry& geometry = blob->geometry();
  if (blob->presence().AllPresent(geometry.All())) return;
  const std::shared_ptr<const BlobSpec> facts = blob->facts();
  for (const BlobOrigin& origin : facts->origins) {
    const absl::StatusOr<p2p::PeerDocumentClient::WholeBlob> given =
        parts_.peers->FetchBlob(origin, blob->digest(), geometry.size(), deadline, from);
    if (!given.ok()) continue;
    if (!IsPublic(given->access)) parts_.ledger.NoteAccess(blob->key(), origin, OriginAccess::kCredentials);
    for (ChunkIndex index(0); index.value() < geometry.chunk_count(); index = index.next()) {
      const ByteRange range = geometry.RangeOf(index);
      Buffer chunk(range.length);
      std::memcpy(chunk.data(), given->bytes.data() + range.offset, range.length);
      if (!Keep(blob, index, std::move(chunk), Evidence::kVerified, SourceKind::kPeer).ok()) return;
    }
    parts_.ledger.NoteGiven(blob->key(), origin, given->access, given->public_age);
    return;
  }
}

// Blocks until it is kept.
absl::Status StoreImagePreparer::Keep(const std::shared_ptr<Blob>& blob, ChunkIndex index, Buffer chunk,
                                      Evidence evidence, SourceKind kind) {
  auto kept = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> result = kept->get_future();
  parts_.sink.Offer(blob, index, std::move(chunk), evidence, kind,
                    [kept](absl::Status status) { kept->set_value(std::move(status)); });
  return result.get();
}

absl::Status StoreImagePreparer::TakeFromRegistry(const std::shared_ptr<Blob>& bootstrap,
                                                  const PrepareBounds& bounds) {
  const std::shared_ptr<const BlobSpec> facts = bootstrap->facts();
  absl::Status last;
  for (const BlobOrigin& origin : facts->origins) {
    const StoredForm* const stored = facts->StoredAt(origin);
    if (bootstrap->presence().complete() || !stored || !IsWhole(*stored)) break;
    // Its home can give what fits into memory.
    const bool by_home = parts_.peers && stored->size <= p2p::HomeDocuments::kBlobBytesMax;
    last = by_home ? TakeDocument(bootstrap, origin, *stored, bounds)
                   : TakeWhole(bootstrap, origin, *stored, bounds);
    if (last.ok()) return last;
    if (bounds.cancelled || parts_.clock.Now() >= bounds.deadline || &origin == &facts->origins.back())
      return last;
  }
  return WaitForFill(*bootstrap, bounds);
}

// Its digest is looked at when all of it is here, as of one that came in parts.
absl::Status StoreImagePreparer::TakeWhole(const std::shared_ptr<Blob>& bootstrap, const BlobOrigin& origin,
                                           const StoredForm& stored, const PrepareBounds& bounds) {
  ChunkCutter cutter(bootstrap->geometry(), [&](ChunkIndex index, Buffer chunk) {
    if (bootstrap->presence().IsPresent(index)) return absl::OkStatus();
    return Keep(bootstrap, index, std::move(chunk), Evidence::kUnverified, SourceKind::kOrigin);
  });
  return p2p::ReadStored(
      parts_.stored_reader, origin, stored, bootstrap->geometry().size(), {bounds.deadline, bounds.cancelled},
      [&](OriginAccess access) { parts_.ledger.NoteAccess(bootstrap->key(), origin, access); },
      [&](std::span<const std::byte> bytes) { return cutter.Take(bytes); });
}

// The same of one that is in memory as it is stored.
absl::Status StoreImagePreparer::TakeDocument(const std::shared_ptr<Blob>& bootstrap,
                                              const BlobOrigin& origin, const StoredForm& stored,
                                              const PrepareBounds& bounds) {
  using Fetched = absl::StatusOr<p2p::FetchedManifest>;
  const auto came = std::make_shared<std::promise<Fetched>>();
  std::future<Fetched> coming = came->get_future();
  parts_.documents.Blob(origin, stored.digest, stored.size,
                        [came](Fetched fetched) { came->set_value(std::move(fetched)); });
  while (coming.wait_for(kCancelCheck) != std::future_status::ready) {
    if (bounds.cancelled) return absl::CancelledError("the call was cancelled, or the node is stopping");
    if (parts_.clock.Now() >= bounds.deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("bootstrap ", bootstrap->digest().ToString(), " did not arrive in time"));
    }
  }
  const Fetched fetched = coming.get();
  if (!fetched.ok()) return fetched.status();
  const bool by_peer = fetched->from_member;
  parts_.ledger.NoteGiven(bootstrap->key(), origin, fetched->access, fetched->public_age);
  Counter& plain_bytes = parts_.stored_reader.telemetry.origin_plain_bytes;
  ChunkCutter cutter(bootstrap->geometry(), [&](ChunkIndex index, Buffer chunk) {
    if (!by_peer) plain_bytes.Add(chunk.size());
    if (bootstrap->presence().IsPresent(index)) return absl::OkStatus();
    return Keep(bootstrap, index, std::move(chunk), Evidence::kUnverified,
                by_peer ? SourceKind::kPeer : SourceKind::kOrigin);
  });
  p2p::StreamDecoder decoder(bootstrap->geometry().size());
  const absl::Status fed = decoder.Feed(std::as_bytes(std::span(fetched->body)),
                                        [&](std::span<const std::byte> plain) { return cutter.Take(plain); });
  return fed.ok() ? decoder.Finish() : fed;
}

absl::Status StoreImagePreparer::WaitForFill(const Blob& blob, const PrepareBounds& bounds) {
  const BlobKey key = blob.key();
  // Later tries find the promise kept.
  struct FirstTry {
    std::promise<absl::Status> status;
    std::atomic<bool> over{false};
  };
  const auto first = std::make_shared<FirstTry>();
  std::future<absl::Status> result = first->status.get_future();
  const FillOwner owner = parts_.fills.NewOwner();
  const auto on_try = [first](const absl::Status& status) {
    if (!first->over.exchange(true)) first->status.set_value(status);
  };
  std::optional<RangeFill> by_right;
  // Somebody waits for the image: it is not to queue behind those that are filled up in the background.
  if (parts_.by_right) {
    by_right.emplace(parts_.by_right->fill, RangeFill::Limits{}, key,
                     std::vector<ChunkSpan>{blob.geometry().All()}, on_try, parts_.by_right->grant);
  } else {
    parts_.fills.Start(key, FetchClass::kHint, owner, on_try);
  }
  absl::Status ended;
  while (result.wait_for(kCancelCheck) != std::future_status::ready && ended.ok()) {
    if (bounds.cancelled) {
      ended = absl::CancelledError("the call was cancelled, or the node is stopping");
    } else if (parts_.clock.Now() >= bounds.deadline) {
      ended = absl::DeadlineExceededError(
          absl::StrCat("bootstrap ", key.name().ToString(), " did not arrive in time"));
    }
  }
  parts_.fills.Stop(key, owner);
  return ended.ok() ? result.get() : ended;
}

}  // namespace sluice
