#include "p2p/cluster/home_documents.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/cluster/member_rounds.h"
#include "p2p/http/content_range.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/pull_grant.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kTokenAnswerBytesMax = 256 << 10;
constexpr Duration kLookAgain = std::chrono::milliseconds(25);

}  // namespace

void HomeDocuments::Ask(const Digest& key, Wanted wanted, Done done) const {
  AwaitMembers(parts_.clock.Now() + MemberRounds::kColdStartMax, key, std::move(wanted), std::move(done));
}

void HomeDocuments::AwaitMembers(Instant until, const Digest& key, Wanted wanted, Done done) const {
  if (!in_cold_start_ || !in_cold_start_() || parts_.clock.Now() >= until)
    return AskHomes(key, std::move(wanted), std::move(done));
  struct Waiting {
    Wanted wanted;
    Done done;
  };
  auto waiting = std::make_shared<Waiting>(Waiting{std::move(wanted), std::move(done)});
  // A client that is stopped drops what waits for its time.
  auto dropped = absl::MakeCleanup(
      [waiting] { std::move(waiting->done)(absl::CancelledError("the node stops asking other nodes")); });
  parts_.client.After(kLookAgain, [this, until, key, waiting, dropped = std::move(dropped)]() mutable {
    std::move(dropped).Cancel();
    AwaitMembers(until, key, std::move(waiting->wanted), std::move(waiting->done));
  });
}

void HomeDocuments::AskHomes(const Digest& key, Wanted wanted, Done done) const {
  const auto view = parts_.members.view();
  bool cut_off = false;
  parts_.members.Look([&](const MemberTable& table, Instant now) { cut_off = table.IsCutOff(now); });
  const bool may_ask = !cut_off && MembersBeforeSelf(*view, key) < kRanks;
  std::vector<Member> homes = RanksBeforeSelf(*view, key, parts_.health, kHomesAskedMax, parts_.clock.Now());
  if (homes.empty() && !may_ask)
    return std::move(done)(absl::UnavailableError("too few members are reached to know whose home has it"));
  const auto check = [digest = wanted.digest](const PeerClient::Answer& answer) {
    if (!digest || Sha256::Of(answer.body) == *digest) return absl::OkStatus();
    return absl::DataLossError("it does not match its digest");
  };
  DocumentAsking::Wanted asked{.path = std::move(wanted.path),
                               .bytes_max = wanted.bytes_max,
                               .of = DocumentAsking::Of::kHomes,
                               .patience = wanted.patience,
                               .check = check,
                               .is_spread = wanted.is_spread,
                               .origin = {},
                               .token = std::move(wanted.token)};
  asked.origin = std::move(wanted.origin);
  DocumentAsking::Ask(
      parts_, std::move(homes), std::move(asked),
      [digest = wanted.digest, may_ask,
       done = std::move(done)](absl::StatusOr<PeerClient::Answer> answer) mutable {
        if (absl::IsUnavailable(answer.status()) && may_ask)
          return std::move(done)(absl::NotFoundError(answer.status().message()));
        if (!answer.ok()) return std::move(done)(answer.status());
        const Digest got = digest ? *digest : Sha256::Of(answer->body);
        std::move(done)(FetchedManifest{std::move(answer->media_type), std::move(answer->body), got,
                                        answer->access, /*from_member=*/true, answer->public_age});
      });
}

void HomeDocuments::Manifest(const BlobOrigin& origin, const std::string& tag_or_digest, Done done) const {
  const absl::StatusOr<Digest> digest = Digest::Parse(tag_or_digest);
  const Digest key =
      digest.ok() ? *digest
                  : Sha256::Of(absl::StrCat(origin.registry, "/", origin.repository, ":", tag_or_digest));
  Wanted wanted{RegistryPathOf(origin, "manifests", tag_or_digest), kManifestBytesMax, std::nullopt};
  if (digest.ok()) wanted.digest = *digest;
  wanted.origin = origin;
  Ask(key, std::move(wanted), std::move(done));
}

void HomeDocuments::Referrers(const BlobOrigin& origin, const Digest& manifest, Done done) const {
  Ask(manifest,
      {RegistryPathOf(origin, "referrers", manifest), kManifestBytesMax, std::nullopt, kPatience, origin},
      std::move(done));
}

void HomeDocuments::Blob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max,
                         Done done) const {
  if (bytes_max > kBlobBytesMax)
    return std::move(done)(absl::NotFoundError("it is too large to be given whole by a home"));
  Counter& received = telemetry_.peer_received_bytes[static_cast<size_t>(PeerLane::kExpress)];
  Ask(digest,
      {absl::StrCat(RegistryPathOf(origin, "blobs", digest), "&part=whole"), bytes_max, digest, kPatience,
       origin, /*token=*/{}, /*is_spread=*/true},
      [&received, done = std::move(done)](absl::StatusOr<FetchedManifest> got) mutable {
        if (got.ok()) received.Add(got->body.size());
        std::move(done)(std::move(got));
      });
}

void HomeDocuments::Table(const BlobOrigin& origin, const StoredForm& stored, const Grant& grant,
                          Done done) const {
  Ask(stored.digest,
      {absl::StrCat(RegistryPathOf(origin, "blobs", stored.digest), "&part=table&", TableQuery(stored)),
       kSeekTableBytesMax, stored.seek_table->digest, kTablePatience,
       grant ? std::nullopt : std::optional(origin),
       grant ? PullGrant::TokenForMembers(grant) : std::string()},
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
