#include "p2p/cluster/home_documents.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/http/content_range.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/pull_grant.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kTokenAnswerBytesMax = 256 << 10;

}  // namespace

// One document: homes are asked one after the other, and the next beside one that says nothing.
class HomeDocuments::Asking : public std::enable_shared_from_this<Asking> {
 public:
  Asking(const Parts& parts, std::vector<Member> homes, Wanted wanted, Done done)
      : parts_(parts),
        homes_(std::move(homes)),
        wanted_(std::move(wanted)),
        done_(std::move(done)),
        heard_(homes_.size()) {
    token_ = wanted_.token;
    if (wanted_.origin && token_.empty() && parts_.tokens) origin_ = *wanted_.origin;
    if (origin_) token_ = parts_.tokens->Kept(*origin_);
  }

  // Asks the next home, if there is one, and gives up when all have failed.
  void Next() {
    std::unique_lock lock(mutex_);
    if (asked_ == homes_.size()) {
      if (under_way_ > 0) return;
      lock.unlock();
      return Finish(NotGiven());
    }
    const size_t home = asked_++;
    ++under_way_;
    lock.unlock();
    Ask(home);
    if (home + 1 == homes_.size()) return;
    parts_.io.PostAt(parts_.clock.Now() + parts_.late_after, [weak = weak_from_this(), home] {
      const auto self = weak.lock();
      if (self && self->IsNextWhileSilent(home)) self->Next();
    });
  }

 private:
  void Ask(size_t home) {
    parts_.client.Ask(homes_[home],
                      {.path_and_query = wanted_.path,
                       .bytes_max = wanted_.bytes_max,
                       .timeout = wanted_.patience,
                       .role = PeerRole::kHome,
                       .token = Token(),
                       .on_sign =
                           [weak = weak_from_this(), home] {
                             if (const auto self = weak.lock()) self->NoteHeard(home);
                           }},
                      [self = shared_from_this(), home](absl::StatusOr<PeerClient::Answer> answer) {
                        self->NoteHeard(home);
                        // Hashing takes its time, and a client that is stopped answers in the call.
                        if (!answer.ok()) return self->Take(home, std::move(answer));
                        self->parts_.io.Post([self, home, answer = std::move(answer)]() mutable {
                          self->Take(home, std::move(answer));
                        });
                      });
  }

  void NoteHeard(size_t home) {
    const std::lock_guard lock(mutex_);
    heard_[home] = true;
  }
  // It is the last that was asked, and has neither answered nor said that it is at it.
  bool IsNextWhileSilent(size_t home) {
    const std::lock_guard lock(mutex_);
    return done_ && asked_ == home + 1 && !heard_[home];
  }
  std::string Token() {
    const std::lock_guard lock(mutex_);
    return token_;
  }

  // What came after the first answer that counts is of no use any more.
  void Finish(absl::StatusOr<FetchedManifest> result) {
    Done done;
    {
      const std::lock_guard lock(mutex_);
      done = std::exchange(done_, nullptr);
    }
    if (done) std::move(done)(std::move(result));
  }

  void Take(size_t index, absl::StatusOr<PeerClient::Answer> answer) {
    const Member& home = homes_[index];
    absl::Status taken = answer.status();
    if (answer.ok()) {
      const Digest got = Sha256::Of(answer->body);
      if (!wanted_.digest || got == *wanted_.digest) {
        parts_.health.Succeeded(home.name);
        return Finish(FetchedManifest{std::move(answer->media_type), std::move(answer->body), got,
                                      answer->access, /*from_member=*/true});
      }
      taken = absl::DataLossError("it does not match its digest");
    }
    if (absl::IsCancelled(taken)) return Finish(std::move(taken));
    Note(home, taken);
    if (PeerClient::TakesCredentials(taken) && MayRenewToken()) return RenewToken(index);
    // One that answers knows as well as the next would.
    if (absl::IsUnauthenticated(taken) || absl::IsNotFound(taken)) return Finish(NotGiven());
    Failed(index);
  }

  absl::Status NotGiven() const { return absl::NotFoundError(absl::StrCat("no home gave ", wanted_.path)); }

  // Another may be asked in its place already.
  void Failed(size_t home) {
    bool is_next = false;
    {
      const std::lock_guard lock(mutex_);
      --under_way_;
      is_next = done_ && (asked_ == home + 1 || under_way_ == 0);
    }
    if (is_next) Next();
  }

  bool MayRenewToken() {
    const std::lock_guard lock(mutex_);
    return origin_ && done_ && !std::exchange(renewed_, true);
  }

  // None was shown, or it was not good for that: the same home is asked once more.
  void RenewToken(size_t home) {
    parts_.tokens->Renew(*origin_, Token(),
                         [self = shared_from_this(), home](absl::StatusOr<std::string> token) {
                           if (absl::IsCancelled(token.status())) return self->Finish(token.status());
                           if (!token.ok()) return self->Finish(self->NotGiven());
                           {
                             const std::lock_guard lock(self->mutex_);
                             self->token_ = *std::move(token);
                           }
                           self->Ask(home);
                         });
  }

  void Note(const Member& home, const absl::Status& why) const {
    if (absl::IsPermissionDenied(why)) return parts_.members.NoteSelf(home.name);
    if (absl::IsUnauthenticated(why) || absl::IsNotFound(why) || absl::IsResourceExhausted(why))
      return parts_.health.Succeeded(home.name);
    // It said all the while that it is at it.
    if (absl::IsDeadlineExceeded(why)) return;
    const Instant now = parts_.clock.Now();
    const std::string text(why.message());
    if (absl::IsDataLoss(why)) {
      parts_.health.SentWrong(home.name, now, wanted_.path);
    } else if (parts_.health.Failed(home.name, now, text) == Duration(0)) {
      return;
    }
    parts_.warn(absl::StrCat("member ", home.name, " is not asked for a while: ", wanted_.path, ": ", text));
  }

  const Parts& parts_;
  const std::vector<Member> homes_;
  const Wanted wanted_;
  std::optional<BlobOrigin> origin_;  // whose tokens this node may have; constant after construction

  std::mutex mutex_;  // guards what follows
  Done done_;         // null: it is over
  size_t asked_ = 0;
  size_t under_way_ = 0;
  std::vector<bool> heard_;
  std::string token_;  // that is shown
  bool renewed_ = false;
};

void HomeDocuments::Ask(const Digest& key, Wanted wanted, Done done) const {
  const auto view = parts_.members.view();
  std::vector<Member> homes = RanksBeforeSelf(*view, key, parts_.health, kHomesAskedMax, parts_.clock.Now());
  std::make_shared<Asking>(parts_, std::move(homes), std::move(wanted), std::move(done))->Next();
}

void HomeDocuments::Manifest(const BlobOrigin& origin, const std::string& tag_or_digest, Done done) const {
  const absl::StatusOr<Digest> digest = Digest::Parse(tag_or_digest);
  const Digest key =
      digest.ok() ? *digest
                  : Sha256::Of(absl::StrCat(origin.registry, "/", origin.repository, ":", tag_or_digest));
  Wanted wanted{RegistryPathOf(origin, "manifests", tag_or_digest), kManifestBytesMax, std::nullopt};
  if (digest.ok()) wanted.digest = *digest;
  wanted.origin = &origin;
  Ask(key, std::move(wanted), std::move(done));
}

void HomeDocuments::Referrers(const BlobOrigin& origin, const Digest& manifest, Done done) const {
  Ask(manifest,
      {RegistryPathOf(origin, "referrers", manifest), kManifestBytesMax, std::nullopt, kPatience, &origin},
      std::move(done));
}

void HomeDocuments::Blob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max,
                         Done done) const {
  if (bytes_max > kBlobBytesMax)
    return std::move(done)(absl::NotFoundError("it is too large to be given whole by a home"));
  Counter& received = parts_.telemetry.peer_received_bytes[static_cast<size_t>(PeerLane::kExpress)];
  Ask(digest,
      {absl::StrCat(RegistryPathOf(origin, "blobs", digest), "&part=whole"), bytes_max, digest, kPatience,
       &origin},
      [&received, done = std::move(done)](absl::StatusOr<FetchedManifest> got) mutable {
        if (got.ok()) received.Add(got->body.size());
        std::move(done)(std::move(got));
      });
}

void HomeDocuments::Table(const BlobOrigin& origin, const StoredForm& stored, const Grant& grant,
                          Done done) const {
  Ask(stored.digest,
      {absl::StrCat(RegistryPathOf(origin, "blobs", stored.digest), "&part=table&", TableQuery(stored)),
       kSeekTableBytesMax, stored.seek_table->digest, kTablePatience, grant ? nullptr : &origin,
       grant ? PullGrant::TokenOf(grant) : std::string()},
      std::move(done));
}

void HomeDocuments::Token(const BlobOrigin& origin, RegistryClient::Done<AccessToken> done) const {
  // The registry is the query's, as in the paths of the others.
  const std::string query = RegistryPathOf(origin, "token", std::string());
  Ask(Sha256::Of(absl::StrCat(origin.registry, "/", origin.repository)),
      {absl::StrCat("/sluice/v1/token", query.substr(query.find('?')), "&name=", origin.repository),
       kTokenAnswerBytesMax, std::nullopt, kTablePatience},
      [done = std::move(done)](absl::StatusOr<FetchedManifest> got) mutable {
        if (!got.ok()) return std::move(done)(got.status());
        std::move(done)(ParseTokenAnswer(got->body));
      });
}

std::string TableQuery(const StoredForm& stored) {
  const SeekTablePlace& place = *stored.seek_table;
  return absl::StrCat("at=", place.range.offset, ":", place.range.length, ":", place.digest.ToString(),
                      "&size=", stored.size);
}

absl::StatusOr<StoredForm> ParseTableQuery(const Digest& stored, std::string_view at, std::string_view size) {
  const std::vector<absl::string_view> parts = absl::StrSplit(Abs(at), absl::MaxSplits(':', 2));
  const std::optional<uint64_t> stored_size = ParseNumber(size);
  if (parts.size() != 3 || !stored_size)
    return absl::InvalidArgumentError("at is not OFFSET:SIZE:sha256:HEX, or size no number");
  const std::optional<uint64_t> offset = ParseNumber(Std(parts[0])), length = ParseNumber(Std(parts[1]));
  const absl::StatusOr<Digest> digest = Digest::Parse(Std(parts[2]));
  if (!offset || !length || !digest.ok())
    return absl::InvalidArgumentError("at is not OFFSET:SIZE:sha256:HEX");
  // It stands behind the frames.
  if (*offset == 0 || *length == 0 || *length > kSeekTableBytesMax || *length > *stored_size ||
      *offset != *stored_size - *length)
    return absl::InvalidArgumentError("the table is not the end of the blob, or too large");
  return StoredForm{stored, *stored_size, SeekTablePlace{{*offset, *length}, *digest}};
}

}  // namespace sluice::p2p
