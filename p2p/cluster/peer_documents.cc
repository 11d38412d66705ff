#include "p2p/cluster/peer_documents.h"

#include <future>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/ranks.h"
#include "p2p/recipe/recipe.h"
#include "p2p/recipe/sha256.h"

namespace sluice::p2p {

namespace {

std::string ZoneOfSelf(const MemberView& view) {
  for (const Member& member : view.members) {
    if (member.is_self) return member.zone.value_or("");
  }
  return {};
}

}  // namespace

absl::StatusOr<PeerClient::Answer> PeerDocumentClient::Ask(const Digest& key, DocumentAsking::Wanted wanted,
                                                           Instant deadline, Nearness nearness) const {
  const Instant now = parts_.clock.Now();
  const auto view = parts_.members.view();
  std::vector<Member> members = nearness == Nearness::kByRank
                                    ? RanksOfBlob(*view, key, parts_.health, kMembersAskedMax, now)
                                    : NearRanksOfBlob(*view, key, parts_.health, kMembersAskedMax, now);
  if (nearness == Nearness::kOwnZone || nearness == Nearness::kOtherZones) {
    const std::string zone = ZoneOfSelf(*view);
    std::erase_if(members, [&](const Member& member) {
      const bool is_elsewhere = !zone.empty() && member.zone && !member.zone->empty() && *member.zone != zone;
      return is_elsewhere != (nearness == Nearness::kOtherZones);
    });
  }
  wanted.of = DocumentAsking::Of::kHolders;
  wanted.patience = deadline - now;
  const auto came = std::make_shared<std::promise<absl::StatusOr<PeerClient::Answer>>>();
  std::future<absl::StatusOr<PeerClient::Answer>> coming = came->get_future();
  DocumentAsking::Ask(
      parts_, std::move(members), std::move(wanted),
      [came](absl::StatusOr<PeerClient::Answer> answer) { came->set_value(std::move(answer)); });
  if (coming.wait_for(deadline - now) != std::future_status::ready)
    return absl::NotFoundError("no member gave it in time");
  absl::StatusOr<PeerClient::Answer> answer = coming.get();
  if (!answer.ok()) return absl::NotFoundError(answer.status().message());
  return answer;
}

absl::StatusOr<FetchedManifest> PeerDocumentClient::FetchManifest(const BlobOrigin& origin,
                                                                  const Digest& digest) const {
  const auto check = [digest](const PeerClient::Answer& answer) {
    if (Sha256::Of(answer.body) == digest) return absl::OkStatus();
    return absl::DataLossError("it does not match its digest");
  };
  absl::StatusOr<PeerClient::Answer> answer = Ask(
      digest,
      {.path = RegistryPathOf(origin, "manifests", digest), .bytes_max = kManifestBytesMax, .check = check},
      parts_.clock.Now() + kTimeout);
  if (!answer.ok()) return answer.status();
  return FetchedManifest{std::move(answer->media_type), std::move(answer->body), digest, answer->access,
                         /*from_member=*/true};
}

absl::StatusOr<std::string> PeerDocumentClient::FetchRecipe(const BlobSpec& spec) const {
  const auto check = [spec](const PeerClient::Answer& answer) {
    const absl::StatusOr<Recipe> recipe = Recipe::DecodeTorrent(answer.body);
    if (recipe.ok() && recipe->IsBoundBy(spec)) return absl::OkStatus();
    return absl::DataLossError("it is not the recipe that the manifest binds");
  };
  absl::StatusOr<PeerClient::Answer> answer = Ask(
      spec.digest,
      {.path = absl::StrCat("/sluice/v1/recipes/", spec.digest.ToString(), "?root=", spec.root->ToString()),
       .bytes_max = kRecipeBytesMax,
       .check = check},
      parts_.clock.Now() + kTimeout);
  if (!answer.ok()) return answer.status();
  return std::move(answer->body);
}

absl::StatusOr<Recipe> PeerDocumentClient::FetchSealed(const BlobSpec& spec) const {
  const auto check = [digest = spec.digest, size = spec.size,
                      chunk_size = spec.chunk_size](const PeerClient::Answer& answer) {
    const absl::StatusOr<Recipe> recipe = Recipe::DecodeTorrent(answer.body);
    if (!recipe.ok() || recipe->blob != digest) return absl::DataLossError("it is no recipe of that blob");
    // Another manifest may cut it otherwise.
    if (recipe->size != size || recipe->chunk_size != chunk_size)
      return absl::NotFoundError("it is cut otherwise");
    return absl::OkStatus();
  };
  const absl::StatusOr<PeerClient::Answer> answer =
      Ask(spec.digest,
          {.path = absl::StrCat("/sluice/v1/recipes/", spec.digest.ToString()),
           .bytes_max = kRecipeBytesMax,
           .check = check},
          parts_.clock.Now() + kSealedTimeout, Nearness::kByRank);
  if (!answer.ok()) return answer.status();
  return Recipe::DecodeTorrent(answer->body);
}

absl::StatusOr<PeerDocumentClient::WholeBlob> PeerDocumentClient::FetchBlob(const BlobOrigin& origin,
                                                                            const Digest& digest,
                                                                            uint64_t size, Instant deadline,
                                                                            From from) const {
  const std::string path = RegistryPathOf(origin, "blobs", digest);
  if (size > kWholeBlobBytesMax)
    return absl::NotFoundError(absl::StrCat(path, " is too large to be taken whole"));
  const auto check = [digest, size](const PeerClient::Answer& answer) {
    if (answer.body.size() == size && Sha256::Of(answer.body) == digest) return absl::OkStatus();
    return absl::DataLossError("it does not match its digest");
  };
  absl::StatusOr<PeerClient::Answer> answer =
      Ask(digest, {.path = path, .bytes_max = size, .check = check, .is_spread = true}, deadline,
          from == From::kHere ? Nearness::kOwnZone : Nearness::kOtherZones);
  if (!answer.ok()) return answer.status();
  telemetry_.peer_received_bytes[static_cast<size_t>(PeerLane::kExpress)].Add(answer->body.size());
  return WholeBlob{std::move(answer->body), answer->access, answer->public_age};
}

}  // namespace sluice::p2p
