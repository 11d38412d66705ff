#include "p2p/cluster/peer_documents.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/ranks.h"
#include "p2p/recipe/recipe.h"
#include "p2p/recipe/sha256.h"

namespace sluice::p2p {

absl::Status PeerDocumentClient::Ask(const Digest& key, const std::string& path, uint64_t bytes_max,
                                     Instant deadline, const Take& take) const {
  const Instant now = parts_.clock.Now();
  const auto view = parts_.members.view();
  for (const Member& member : RanksOfBlob(*view, key, parts_.health, kMembersAskedMax, now)) {
    // Whoever is slow leaves time for the next.
    const Duration left = deadline - parts_.clock.Now();
    if (left <= Duration(0)) break;
    const absl::StatusOr<PeerClient::Answer> answer = parts_.client.Get(member, path, bytes_max, left / 2);
    absl::Status taken = answer.ok() ? take(*answer) : answer.status();
    if (taken.ok()) {
      parts_.health.Succeeded(member.name);
      return taken;
    }
    if (absl::IsCancelled(taken)) break;
    if (absl::IsNotFound(taken)) continue;
    if (absl::IsPermissionDenied(taken)) {
      parts_.members.NoteSelf(member.name);
      continue;
    }
    Duration skip = MemberHealth::kSkipWrong;
    if (absl::IsDataLoss(taken)) {
      parts_.health.SentWrong(member.name, now, path);
    } else {
      skip = parts_.health.Failed(member.name, now, std::string(taken.message()));
    }
    if (skip == Duration(0)) continue;
    parts_.warn(absl::StrCat("member ", member.name, " is not asked for ",
                             std::chrono::duration_cast<std::chrono::seconds>(skip).count(), " s: ", path,
                             ": ", std::string(taken.message())));
  }
  return absl::NotFoundError(absl::StrCat("no member that was asked has ", path));
}

absl::StatusOr<FetchedManifest> PeerDocumentClient::FetchManifest(const BlobOrigin& origin,
                                                                  const Digest& digest) const {
  FetchedManifest manifest;
  const absl::Status asked =
      Ask(digest, RegistryPathOf(origin, "manifests", digest), kManifestBytesMax,
          parts_.clock.Now() + kTimeout, [&](const PeerClient::Answer& answer) -> absl::Status {
            if (Sha256::Of(answer.body) != digest) return absl::DataLossError("it does not match its digest");
            manifest = {answer.media_type, answer.body, digest, answer.access, /*from_member=*/true};
            return absl::OkStatus();
          });
  if (!asked.ok()) return asked;
  return manifest;
}

absl::StatusOr<std::string> PeerDocumentClient::FetchRecipe(const BlobSpec& spec) const {
  std::string bytes;
  const std::string path =
      absl::StrCat("/sluice/v1/recipes/", spec.digest.ToString(), "?root=", spec.root->ToString());
  const absl::Status asked =
      Ask(spec.digest, path, kRecipeBytesMax, parts_.clock.Now() + kTimeout,
          [&](const PeerClient::Answer& answer) -> absl::Status {
            const absl::StatusOr<Recipe> recipe = Recipe::DecodeTorrent(answer.body);
            if (!recipe.ok() || !recipe->IsBoundBy(spec))
              return absl::DataLossError("it is not the recipe that the manifest binds");
            bytes = answer.body;
            return absl::OkStatus();
          });
  if (!asked.ok()) return asked;
  return bytes;
}

absl::StatusOr<Recipe> PeerDocumentClient::FetchSealed(const BlobSpec& spec) const {
  Recipe sealed;
  const absl::Status asked =
      Ask(spec.digest, absl::StrCat("/sluice/v1/recipes/", spec.digest.ToString()), kRecipeBytesMax,
          parts_.clock.Now() + kSealedTimeout, [&](const PeerClient::Answer& answer) -> absl::Status {
            absl::StatusOr<Recipe> recipe = Recipe::DecodeTorrent(answer.body);
            if (!recipe.ok() || recipe->blob != spec.digest)
              return absl::DataLossError("it is no recipe of that blob");
            // Another manifest may cut it otherwise.
            if (recipe->size != spec.size || recipe->chunk_size != spec.chunk_size)
              return absl::NotFoundError("it is cut otherwise");
            sealed = *std::move(recipe);
            return absl::OkStatus();
          });
  if (!asked.ok()) return asked;
  return sealed;
}

absl::StatusOr<PeerDocumentClient::WholeBlob> PeerDocumentClient::FetchBlob(const BlobOrigin& origin,
                                                                            const Digest& digest,
                                                                            uint64_t size,
                                                                            Instant deadline) const {
  const std::string path = RegistryPathOf(origin, "blobs", digest);
  if (size > kWholeBlobBytesMax)
    return absl::NotFoundError(absl::StrCat(path, " is too large to be taken whole"));
  WholeBlob blob;
  const absl::Status asked =
      Ask(digest, path, size, deadline, [&](const PeerClient::Answer& answer) -> absl::Status {
        if (answer.body.size() != size || Sha256::Of(answer.body) != digest)
          return absl::DataLossError("it does not match its digest");
        blob = {answer.body, answer.access};
        return absl::OkStatus();
      });
  if (!asked.ok()) return asked;
  parts_.telemetry.peer_received_bytes[static_cast<size_t>(PeerLane::kExpress)].Add(blob.bytes.size());
  return blob;
}

}  // namespace sluice::p2p
