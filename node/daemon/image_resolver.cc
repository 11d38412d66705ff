#include "node/daemon/image_resolver.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/recipe.h"

namespace sluice {

absl::StatusOr<p2p::ImageReference> ImageResolver::Check(const std::string& text) const {
  absl::StatusOr<p2p::ImageReference> reference = p2p::ImageReference::Parse(text);
  if (!reference.ok()) return reference;
  const absl::Status permitted = allowed_.Permits(reference->origin);
  if (!permitted.ok()) return permitted;
  return reference;
}

absl::StatusOr<ResolvedImage> ImageResolver::Resolve(const std::string& text, const p2p::Platform& platform) {
  const absl::StatusOr<p2p::ImageReference> reference = Check(text);
  if (!reference.ok()) return reference.status();

  Asking asking;
  const absl::StatusOr<p2p::ChosenImage> chosen = Choose(*reference, platform, asking);
  if (!chosen.ok()) {
    return absl::Status(chosen.status().code(), absl::StrCat(text, ": ", chosen.status().message()));
  }
  absl::StatusOr<std::optional<p2p::LazyImage>> lazy =
      p2p::FindLazyImage(chosen->manifest, reference->origin);
  if (!lazy.ok()) return lazy.status();
  if (!*lazy) {
    return absl::FailedPreconditionError(
        absl::StrCat(text, " is an ordinary image: it can't be mounted before it is there. Convert it with ",
                     "\"sluice image push ", text, " TARGET\" and mount TARGET"));
  }
  return ResolvedImage{*reference, chosen->fetched.digest, **std::move(lazy), asking.round_trips};
}

absl::StatusOr<p2p::ImageReference> ImageResolver::CheckBlob(const std::string& reference) const {
  absl::StatusOr<p2p::ImageReference> named = Check(reference);
  if (!named.ok() || !ask_policy_) return named;
  return absl::PermissionDeniedError(absl::StrCat(
      reference, ": policy.verifierDir is set on this node, and its programs are asked of images: ",
      "hint at the image that has the blob"));
}

absl::StatusOr<p2p::ChosenImage> ImageResolver::Choose(const p2p::ImageReference& reference,
                                                       const p2p::Platform& platform, Asking& asking) {
  absl::StatusOr<p2p::FetchedManifest> root = FetchOne(reference, asking);
  if (!root.ok()) return root.status();
  if (absl::Status passed = ask_policy_ ? ask_policy_(reference, *root) : absl::OkStatus(); !passed.ok())
    return passed;
  p2p::Platform wanted = platform;
  wanted.os_features.emplace_back(p2p::kOsFeatureErofs);
  const auto manifest = [&](const Digest& digest) {
    return FetchOne({reference.origin, "", digest}, asking);
  };
  const auto config = [&](const p2p::Descriptor& blob) {
    return FetchConfig(reference.origin, blob.digest, asking);
  };
  return p2p::ChooseImage(*std::move(root), wanted, {.manifest = manifest, .config = config});
}

// Kept as manifests are, so that an image which was found by it once is found again without the registry.
absl::StatusOr<std::string> ImageResolver::FetchConfig(const BlobOrigin& origin, const Digest& digest,
                                                       Asking& asking) {
  const p2p::ImageReference name{origin, "", digest};
  absl::Status away = absl::UnavailableError("its registry can't be reached");
  if (asking.registry == Registry::kAsk) {
    ++asking.round_trips;
    absl::StatusOr<std::string> bytes = documents_.Blob(origin, digest, p2p::kManifestBytesMax);
    if (bytes.ok()) Keep(name, {std::string(p2p::media_type::kOciConfig), *bytes, digest});
    if (!absl::IsUnavailable(bytes.status()) && !absl::IsDeadlineExceeded(bytes.status())) return bytes;
    asking.registry = Registry::kAway;
    away = bytes.status();
  }
  absl::StatusOr<p2p::FetchedManifest> kept = FindKept(name);
  if (!kept.ok()) return away;
  return std::move(kept->body);
}

absl::StatusOr<p2p::FetchedManifest> ImageResolver::FetchOne(const p2p::ImageReference& reference,
                                                             Asking& asking) {
  absl::Status away = absl::UnavailableError("its registry can't be reached");
  if (asking.registry == Registry::kAsk) {
    ++asking.round_trips;
    absl::StatusOr<p2p::FetchedManifest> fetched =
        documents_.Manifest(reference.origin, reference.ManifestName());
    if (fetched.ok()) Keep(reference, *fetched);
    if (!absl::IsUnavailable(fetched.status()) && !absl::IsDeadlineExceeded(fetched.status())) return fetched;
    asking.registry = Registry::kAway;
    away = fetched.status();
  }
  absl::StatusOr<p2p::FetchedManifest> found = FindElsewhere(reference);
  if (!found.ok()) return away;
  spdlog::warn("{}: its manifest is taken from {}, since its registry can't be reached: {}",
               reference.ToString(), found->from_member ? "a member" : "an earlier mount", away.ToString());
  return found;
}

absl::StatusOr<p2p::FetchedManifest> ImageResolver::FindElsewhere(const p2p::ImageReference& reference) {
  absl::StatusOr<p2p::FetchedManifest> kept =
      FindKept(reference.digest ? p2p::ImageReference{reference.origin, "", reference.digest} : reference);
  if (kept.ok() || !reference.digest || !peers_) return kept;
  absl::StatusOr<p2p::FetchedManifest> given = peers_->FetchManifest(reference.origin, *reference.digest);
  if (given.ok() && !IsPublic(given->access)) {
    // What was proven a moment ago still holds.
    const absl::Status right =
        documents_.ProveRight(reference.origin, absl::StrCat("/manifests/", reference.digest->ToString()));
    if (!right.ok()) return right;
    given->access = OriginAccess::kCredentials;
  }
  if (given.ok()) Keep(reference, *given);
  return given;
}

absl::StatusOr<p2p::FetchedManifest> ImageResolver::FindKept(const p2p::ImageReference& name) {
  if (!manifests_) return absl::NotFoundError("none is kept");
  return manifests_->Get(name);
}

// By its digest, and by its tag if it was asked for by that.
void ImageResolver::Keep(const p2p::ImageReference& reference, const p2p::FetchedManifest& manifest) {
  if (!manifests_) return;
  absl::Status kept = manifests_->Put({reference.origin, "", manifest.digest}, manifest);
  if (kept.ok() && !reference.digest) kept = manifests_->Put(reference, manifest);
  if (!kept.ok()) spdlog::warn("{}: its manifest is not kept: {}", reference.ToString(), kept.ToString());
}

ImageResolver::RecipesFetched ImageResolver::FetchRecipes(const p2p::ImageReference& reference,
                                                          const Digest& manifest,
                                                          std::span<const std::shared_ptr<Blob>> blobs,
                                                          const CancelCheck& cancelled) {
  RecipesFetched result;
  const auto note = [&](const Digest& blob, absl::string_view why) {
    absl::StrAppend(&result.missing, result.missing.empty() ? "" : "; ", "blob ", blob.Short(), why);
  };
  std::vector<BlobKey> keys;
  std::vector<BlobSpec> wanted;
  const std::string teller = absl::StrCat("manifest ", manifest.ToString(), " of ", reference.ToString());
  for (const std::shared_ptr<Blob>& blob : blobs) {
    if (cancelled) return result;
    if (const std::optional<Digest> root = blob->facts()->root) roots_.Note(blob->digest(), *root, teller);
    // Nothing of it is to be proven.
    if (blob->presence().complete() && blob->unverified_count() == 0) continue;
    const std::shared_ptr<const BlobSpec> facts = blob->facts();
    if (!facts->root) {
      note(blob->digest(), " has no recipe's root in the manifest");
      if (!peers_ || !claim_) continue;
      ++result.round_trips;
      if (absl::StatusOr<p2p::Recipe> sealed = peers_->FetchSealed(*facts); sealed.ok())
        claim_(blob->key(), *std::move(sealed));
      continue;
    }
    // The root alone proves a blob of one chunk.
    if (blob->geometry().chunk_count() == 1 || HasBoundRecipe(blob->key(), *facts)) continue;
    if (peers_) ++result.round_trips;
    if (TakeFromMembers(blob->key(), *facts)) continue;
    keys.push_back(blob->key());
    wanted.push_back(*facts);
  }
  if (wanted.empty()) return result;
  AttachedRecipes listed(documents_, reference.origin, manifest);
  const std::vector<absl::StatusOr<std::string>> recipes = listed.Fetch(wanted, cancelled);
  result.round_trips += listed.round_trips();
  for (size_t i = 0; i < wanted.size(); ++i) {
    const absl::Status kept =
        recipes[i].ok() ? recipes_.PutRecipe(keys[i], *recipes[i]) : recipes[i].status();
    if (!kept.ok()) note(wanted[i].digest, absl::StrCat(": ", kept.message()));
  }
  return result;
}

absl::StatusOr<ImageResolver::Given> ImageResolver::AskForBytes(const BlobOrigin& origin, const Blob& blob,
                                                                ByteRange range, Instant deadline) {
  // What comes in comes in order, and ends with `done`.
  struct Answer {
    Given given;
    std::promise<absl::Status> done;
  };
  const auto answer = std::make_shared<Answer>();
  std::future<absl::Status> done = answer->done.get_future();
  registry_.ReadBlobRange(
      origin, blob.digest(), blob.geometry().size(), range, FetchClass::kDemand, deadline,
      [answer](OriginAccess access) { answer->given.access = access; },
      [answer](std::span<const std::byte> bytes) {
        answer->given.bytes.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      },
      [answer](absl::Status status) { answer->done.set_value(std::move(status)); });
  absl::Status ended = done.get();
  if (!ended.ok()) return ended;
  return std::move(answer->given);
}

bool ImageResolver::HasBoundRecipe(const BlobKey& key, const BlobSpec& facts) {
  const absl::StatusOr<std::string> bytes = recipes_.GetRecipe(key);
  if (!bytes.ok()) return false;
  const absl::StatusOr<p2p::Recipe> recipe = p2p::Recipe::DecodeTorrent(*bytes);
  return recipe.ok() && recipe->IsBoundBy(facts);
}

bool ImageResolver::TakeFromMembers(const BlobKey& key, const BlobSpec& facts) {
  if (!peers_) return false;
  const absl::StatusOr<std::string> given = peers_->FetchRecipe(facts);
  return given.ok() && recipes_.PutRecipe(key, *given).ok();
}

}  // namespace sluice
