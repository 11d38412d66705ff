#include "node/image/image_pusher.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/image/scratch_directory.h"
#include "node/image/source_image.h"
#include "node/image/unique_fd.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/layer_types.h"

namespace sluice {
namespace {

constexpr std::string_view kEmptyConfig = "{}";
constexpr char kTreeName[] = "tree";
constexpr char kLayerName[] = "layer";

bool IsDirectory(const std::string& path) {
  struct stat stat;
  return ::stat(path.c_str(), &stat) == 0 && S_ISDIR(stat.st_mode);
}

bool LooksLikePath(std::string_view source) {
  return source.starts_with('/') || source.starts_with('.');
}

bool IsLazyLayer(const p2p::Descriptor& layer) {
  return layer.media_type == p2p::media_type::kErofs || layer.media_type == p2p::media_type::kErofsLayerV1;
}

absl::Status CheckFlattenable(const RemoteImage& image) {
  const std::vector<p2p::Descriptor>& layers = image.manifest.layers;
  if (std::any_of(layers.begin(), layers.end(), IsLazyLayer)) {
    return absl::FailedPreconditionError(
        absl::StrCat(image.reference.ToString(), " is a lazy image already; mount it as it is"));
  }
  for (const p2p::Descriptor& layer : layers) {
    if (p2p::IsTarLayer(layer.media_type)) continue;
    return absl::InvalidArgumentError(absl::StrCat(image.reference.ToString(), " has a layer of type ",
                                                   p2p::Quoted(layer.media_type),
                                                   "; only tar, tar+gzip and tar+zstd can be flattened"));
  }
  return absl::OkStatus();
}

p2p::Descriptor DescribeBlob(const p2p::Recipe& recipe) {
  return {.media_type = std::string(p2p::media_type::kOctetStream),
          .digest = recipe.blob,
          .size = recipe.size,
          .annotations = {
              {std::string(p2p::annotation::kErofsRole), std::string(p2p::annotation::kErofsRoleDevice)},
              {std::string(p2p::annotation::kBlobRoot), recipe.root.Hex()},
              {std::string(p2p::annotation::kBlobChunkSize), absl::StrCat(recipe.chunk_size)},
              {std::string(p2p::annotation::kBlobSize), absl::StrCat(recipe.size)}}};
}

p2p::Descriptor Describe(std::string_view type, const Digest& digest, uint64_t size) {
  return {.media_type = std::string(type), .digest = digest, .size = size, .annotations = {}};
}

}  // namespace

absl::StatusOr<PushedImage> ImagePusher::Push(const ImagePushRequest& request) {
  if (request.target.digest) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.target.ToString(), ": an image is pushed to a tag, its digest is not known before"));
  }
  absl::StatusOr<ScratchDirectory> scratch = ScratchDirectory::Make();
  if (!scratch.ok()) return scratch.status();
  absl::StatusOr<Source> source = Source{request.source, ""};
  if (!IsDirectory(request.source)) source = Flatten(request, scratch->path());
  if (!source.ok()) return source.status();
  absl::StatusOr<ErofsImage> image =
      BuildErofsImage(source->directory, scratch->path(), request.chunk_size, progress_);
  if (!image.ok()) return image.status();
  absl::StatusOr<PushedImage> pushed = PushParts(request, *image, source->config);
  progress_.End();
  return pushed;
}

absl::StatusOr<ImagePusher::Source> ImagePusher::Flatten(const ImagePushRequest& request,
                                                         const std::string& work_directory) {
  if (LooksLikePath(request.source)) {
    return absl::InvalidArgumentError(absl::StrCat("source ", request.source, " is not a directory"));
  }
  absl::StatusOr<p2p::ImageReference> reference = p2p::ImageReference::Parse(request.source);
  if (!reference.ok()) return reference.status();
  absl::StatusOr<RemoteImage> image = ResolveRemoteImage(registry_, *reference, request.platform);
  if (!image.ok()) return image.status();
  if (absl::Status checked = CheckFlattenable(*image); !checked.ok()) return checked;
  absl::StatusOr<std::string> config =
      registry_.FetchWholeBlob(reference->origin, image->manifest.config.digest, p2p::kManifestBytesMax);
  if (!config.ok()) return config.status();

  Source source{absl::StrCat(work_directory, "/", kTreeName), *std::move(config)};
  if (mkdir(source.directory.c_str(), 0755) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(source.directory, " can't be made"));
  }
  absl::StatusOr<LayerFlattener> flattener = LayerFlattener::Open(source.directory, request.limits);
  if (!flattener.ok()) return flattener.status();
  // One layer on disk at a time.
  const std::string path = absl::StrCat(work_directory, "/", kLayerName);
  for (const p2p::Descriptor& layer : image->manifest.layers) {
    absl::Status downloaded = DownloadBlob(registry_, reference->origin, layer, path, progress_);
    if (!downloaded.ok()) return downloaded;
    progress_.Begin(absl::StrCat("unpacking ", layer.digest.Short()), 0);
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    unlink(path.c_str());
    if (absl::Status applied = flattener->Apply(file.get()); !applied.ok()) {
      return absl::Status(applied.code(),
                          absl::StrCat("layer ", layer.digest.ToString(), ": ", applied.message()));
    }
  }
  if (absl::Status finished = flattener->Finish(); !finished.ok()) return finished;
  return source;
}

absl::StatusOr<PushedImage> ImagePusher::PushParts(const ImagePushRequest& request, const ErofsImage& image,
                                                   const std::string& source_config) {
  const BlobOrigin& origin = request.target.origin;
  PushedImage pushed;
  pushed.target = request.target;
  p2p::ImageManifest manifest;
  if (image.blob) {
    pushed.blobs.push_back(DescribeBlob(image.blob->recipe));
    absl::Status sent = PushFile(origin, pushed.blobs.front(), image.blob->path, "pushing blob");
    if (!sent.ok()) return sent;
    manifest.layers = pushed.blobs;
  }
  pushed.bootstrap = Describe(p2p::media_type::kErofs, image.bootstrap_digest, image.bootstrap_size);
  absl::Status sent = PushFile(origin, pushed.bootstrap, image.bootstrap_path, "pushing bootstrap");
  if (!sent.ok()) return sent;
  manifest.layers.push_back(pushed.bootstrap);

  std::vector<Digest> diff_ids;
  for (const p2p::Descriptor& layer : manifest.layers) diff_ids.push_back(layer.digest);
  absl::StatusOr<std::string> config = p2p::MakeLazyConfig(source_config, request.platform, diff_ids);
  if (!config.ok()) return config.status();
  absl::StatusOr<p2p::Descriptor> config_descriptor = PushBytes(origin, p2p::media_type::kOciConfig, *config);
  if (!config_descriptor.ok()) return config_descriptor.status();
  manifest.config = *std::move(config_descriptor);

  const std::string body = p2p::SerializeManifest(manifest);
  const p2p::Descriptor subject = Describe(manifest.media_type, p2p::Sha256::Of(body), body.size());
  if (image.blob) {
    absl::StatusOr<Digest> recipe = PushRecipe(origin, image.blob->recipe, subject);
    if (!recipe.ok()) return recipe.status();
    pushed.recipe_manifest = *recipe;
  }
  absl::StatusOr<Digest> digest =
      registry_.PushManifest(origin, request.target.tag, manifest.media_type, body);
  if (!digest.ok()) return digest.status();
  pushed.manifest = *digest;
  return pushed;
}

absl::StatusOr<Digest> ImagePusher::PushRecipe(const BlobOrigin& origin, const p2p::Recipe& recipe,
                                               const p2p::Descriptor& subject) {
  p2p::ImageManifest manifest;
  manifest.artifact_type = p2p::media_type::kRecipeArtifact;
  manifest.subject = subject;
  absl::StatusOr<p2p::Descriptor> config =
      PushBytes(origin, p2p::media_type::kOciEmpty, std::string(kEmptyConfig));
  if (!config.ok()) return config.status();
  absl::StatusOr<p2p::Descriptor> torrent =
      PushBytes(origin, p2p::media_type::kTorrent, recipe.EncodeTorrent());
  if (!torrent.ok()) return torrent.status();
  torrent->annotations[std::string(p2p::annotation::kRecipeBlob)] = recipe.blob.ToString();
  manifest.config = *std::move(config);
  manifest.layers = {*std::move(torrent)};
  const std::string body = p2p::SerializeManifest(manifest);
  return registry_.PushManifest(origin, p2p::Sha256::Of(body).ToString(), manifest.media_type, body);
}

absl::Status ImagePusher::PushFile(const BlobOrigin& origin, const p2p::Descriptor& blob,
                                   const std::string& path, std::string_view step) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be opened"));
  progress_.Begin(step, blob.size);
  return registry_.PushBlob(origin, blob.digest, p2p::HttpBody::FromFile(file.get(), 0, blob.size),
                            [this](uint64_t sent) { progress_.Advance(sent); });
}

absl::StatusOr<p2p::Descriptor> ImagePusher::PushBytes(const BlobOrigin& origin, std::string_view type,
                                                       const std::string& bytes) {
  const p2p::Descriptor descriptor = Describe(type, p2p::Sha256::Of(bytes), bytes.size());
  absl::Status pushed =
      registry_.PushBlob(origin, descriptor.digest, p2p::HttpBody::FromString(bytes), [](uint64_t) {});
  if (!pushed.ok()) return pushed;
  return descriptor;
}

}  // namespace sluice
