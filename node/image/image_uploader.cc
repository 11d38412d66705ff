#include "node/image/image_uploader.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/image/unique_fd.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/profile_artifact.h"

namespace sluice {
namespace {

constexpr std::string_view kEmptyConfig = "{}";

p2p::Descriptor Describe(std::string_view type, const std::string& bytes) {
  return {.media_type = std::string(type), .digest = p2p::Sha256::Of(bytes), .size = bytes.size()};
}

}  // namespace

absl::Status ImageUploader::PushFile(const BlobUpload& upload, std::string_view step) {
  if (upload.path.empty()) return absl::OkStatus();
  const p2p::Descriptor& blob = upload.descriptor;
  const UniqueFd file(open(upload.path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(upload.path, " can't be opened"));
  progress_.Begin(step, blob.size);
  return registry_.PushBlob(target_, blob.digest, p2p::HttpBody::FromFile(file.get(), 0, blob.size),
                            [this](uint64_t sent) { progress_.Advance(sent); });
}

absl::StatusOr<p2p::Descriptor> ImageUploader::PushBytes(std::string_view media_type,
                                                         const std::string& bytes) {
  const p2p::Descriptor descriptor = Describe(media_type, bytes);
  absl::Status pushed =
      registry_.PushBlob(target_, descriptor.digest, p2p::HttpBody::FromString(bytes), [](uint64_t) {});
  if (!pushed.ok()) return pushed;
  return descriptor;
}

absl::StatusOr<p2p::Descriptor> ImageUploader::PushManifest(const p2p::ImageManifest& manifest) {
  const std::string body = p2p::SerializeManifest(manifest);
  p2p::Descriptor descriptor = Describe(manifest.media_type, body);
  absl::StatusOr<Digest> pushed =
      registry_.PushManifest(target_, descriptor.digest.ToString(), manifest.media_type, body);
  if (!pushed.ok()) return pushed.status();
  return descriptor;
}

absl::StatusOr<std::optional<Digest>> ImageUploader::PushRecipes(std::span<const p2p::Recipe* const> recipes,
                                                                 const p2p::Descriptor& subject) {
  p2p::ImageManifest manifest;
  manifest.artifact_type = p2p::media_type::kRecipeArtifact;
  manifest.subject = subject;
  for (const p2p::Recipe* recipe : recipes) {
    if (recipe->layer.empty()) continue;
    absl::StatusOr<p2p::Descriptor> torrent = PushBytes(p2p::media_type::kTorrent, recipe->EncodeTorrent());
    if (!torrent.ok()) return torrent.status();
    torrent->annotations[std::string(p2p::annotation::kRecipeBlob)] = recipe->blob.ToString();
    manifest.layers.push_back(*std::move(torrent));
  }
  if (manifest.layers.empty()) return std::nullopt;
  absl::StatusOr<Digest> pushed = PushArtifact(std::move(manifest));
  if (!pushed.ok()) return pushed.status();
  return *pushed;
}

absl::StatusOr<Digest> ImageUploader::PushProfile(const std::string& document, const p2p::Descriptor& subject,
                                                  absl::Time now) {
  p2p::ImageManifest manifest;
  manifest.artifact_type = p2p::media_type::kProfileArtifact;
  manifest.subject = subject;
  absl::StatusOr<p2p::Descriptor> profile = PushBytes(p2p::media_type::kProfile, document);
  if (!profile.ok()) return profile.status();
  manifest.layers.push_back(*std::move(profile));
  manifest.annotations[std::string(p2p::annotation::kCreated)] =
      absl::FormatTime(absl::RFC3339_sec, now, absl::UTCTimeZone());
  return PushArtifact(std::move(manifest));
}

// With an empty configuration, as the specification has it of what is no image.
absl::StatusOr<Digest> ImageUploader::PushArtifact(p2p::ImageManifest manifest) {
  absl::StatusOr<p2p::Descriptor> config = PushBytes(p2p::media_type::kOciEmpty, std::string(kEmptyConfig));
  if (!config.ok()) return config.status();
  manifest.config = *std::move(config);
  absl::StatusOr<p2p::Descriptor> pushed = PushManifest(manifest);
  if (!pushed.ok()) return pushed.status();
  return pushed->digest;
}

absl::StatusOr<p2p::Descriptor> ImageUploader::PushCopy(const RemoteImage& image,
                                                        const std::vector<std::string>& layer_paths,
                                                        const std::string& config) {
  for (size_t i = 0; i < layer_paths.size(); ++i) {
    const p2p::Descriptor& layer = image.manifest.layers[i];
    const absl::StatusOr<bool> there = registry_.TakeBlob(target_, layer.digest, image.reference.origin);
    if (!there.ok()) return there.status();
    if (*there) continue;
    if (absl::Status pushed = PushFile({layer, layer_paths[i]}, "pushing layer"); !pushed.ok()) return pushed;
  }
  absl::StatusOr<p2p::Descriptor> sent = PushBytes(image.manifest.config.media_type, config);
  if (!sent.ok()) return sent.status();
  absl::StatusOr<Digest> pushed =
      registry_.PushManifest(target_, image.digest.ToString(), image.manifest.media_type, image.bytes);
  if (!pushed.ok()) return pushed.status();
  return Describe(image.manifest.media_type, image.bytes);
}

}  // namespace sluice
