#include "node/daemon/attached_profiles.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "node/origin_access.h"
#include "p2p/registry/profile_artifact.h"

namespace sluice {

using Fetched = absl::StatusOr<p2p::FetchedManifest>;

// What somebody has asked for, one referrer after the other.
struct AttachedProfiles::Asked {
  const BlobOrigin origin;
  const Digest manifest;
  OnFound on_found;
  std::vector<Digest> left;  // referrers, the one that is looked into next last
};

void AttachedProfiles::Fetch(const BlobOrigin& origin, const Digest& manifest, OnFound on_found) {
  auto asked = std::make_shared<Asked>(Asked{origin, manifest, std::move(on_found), {}});
  documents_.Referrers(origin, manifest, [this, asked](const Fetched& list) {
    absl::StatusOr<std::vector<p2p::Descriptor>> referrers =
        list.ok() ? p2p::ReferrersOfType(list->body, std::string(p2p::media_type::kProfileArtifact))
                  : list.status();
    if (referrers.ok()) {
      std::stable_sort(referrers->begin(), referrers->end(), [](const auto& a, const auto& b) {
        return a.Annotation(p2p::annotation::kCreated) < b.Annotation(p2p::annotation::kCreated);
      });
      const size_t first = referrers->size() - std::min(referrers->size(), kReferrersMax);
      for (size_t i = first; i < referrers->size(); ++i) asked->left.push_back((*referrers)[i].digest);
    }
    Next(asked);
  });
}

void AttachedProfiles::Next(const AskedPtr& asked) {
  if (asked->left.empty()) return std::move(asked->on_found)(std::nullopt);
  const Digest referrer = asked->left.back();
  asked->left.pop_back();
  documents_.Manifest(asked->origin, referrer.ToString(),
                      [this, asked](const Fetched& fetched) { TakeArtifact(asked, fetched); });
}

void AttachedProfiles::TakeArtifact(const AskedPtr& asked, const Fetched& fetched) {
  const absl::StatusOr<p2p::Manifest> manifest =
      fetched.ok() ? p2p::ParseManifest(fetched->body, fetched->media_type) : fetched.status();
  const auto* artifact = manifest.ok() ? std::get_if<p2p::ImageManifest>(&*manifest) : nullptr;
  const bool is_profile = artifact != nullptr && artifact->layers.size() == 1 &&
                          artifact->layers.front().media_type == p2p::media_type::kProfile &&
                          artifact->layers.front().size <= p2p::kProfileBytesMax;
  if (!is_profile) return Next(asked);
  documents_.Blob(asked->origin, artifact->layers.front().digest, p2p::kProfileBytesMax,
                  [this, asked](const Fetched& profile) { TakeProfile(asked, profile); });
}

void AttachedProfiles::TakeProfile(const AskedPtr& asked, const Fetched& fetched) {
  std::optional<p2p::KeptProfile> kept;
  if (fetched.ok()) kept = p2p::ParseKept(fetched->body);
  if (!kept || kept->manifest != asked->manifest) {
    if (fetched.ok())
      spdlog::warn("what is attached to {} as its profile is none", asked->manifest.ToString());
    return Next(asked);
  }
  // Neither is its author's to say.
  kept->access = IsPublic(fetched->access) ? p2p::ImageAccess::kPublic : p2p::ImageAccess::kPrivate;
  kept->recorders.clear();
  std::move(asked->on_found)(std::move(kept));
}

}  // namespace sluice
