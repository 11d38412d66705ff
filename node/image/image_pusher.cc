#include "node/image/image_pusher.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/geometry.h"
#include "node/image/blob_descriptor.h"
#include "node/image/byte_stream.h"
#include "node/image/folder_reader.h"
#include "node/image/layer_fetcher.h"
#include "node/image/layer_stream.h"
#include "node/image/notices.h"
#include "node/image/tar_reader.h"
#include "node/image/unique_fd.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/layer_types.h"
#include "p2p/registry/platform_match.h"
#include "p2p/registry/seek_table.h"

namespace sluice {
namespace {

// Frames of the bootstrap, which is fetched whole: as large as makes them no smaller together.
constexpr uint32_t kBootstrapFrameBytes = 4 << 20;
// What is not smaller than this share of its plain bytes is sent plain.
constexpr double kCompressedShareMax = 0.95;

bool IsDirectory(const std::string& path) {
  struct stat stat;
  return ::stat(path.c_str(), &stat) == 0 && S_ISDIR(stat.st_mode);
}

bool LooksLikePath(std::string_view source) {
  return source.starts_with('/') || source.starts_with('.');
}

bool IsLazyLayer(const p2p::Descriptor& layer) {
  return layer.media_type.starts_with(p2p::media_type::kErofs);
}

absl::Status In(const std::string& where, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

absl::Status CheckLayers(const RemoteImage& image) {
  const std::vector<p2p::Descriptor>& layers = image.manifest.layers;
  if (std::any_of(layers.begin(), layers.end(), IsLazyLayer)) {
    return absl::FailedPreconditionError(
        absl::StrCat(image.reference.ToString(), " is a lazy image already; mount it as it is"));
  }
  for (const p2p::Descriptor& layer : layers) {
    if (p2p::IsTarLayer(layer.media_type)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        image.reference.ToString(), ": layer ", layer.digest.ToString(), " is of type ",
        p2p::Quoted(layer.media_type), "; only tar archives, plain or by gzip or zstd, can be read"));
  }
  return absl::OkStatus();
}

// What is read tells how far the reading has come.
class WatchedStream final : public ByteStream {
 public:
  WatchedStream(std::unique_ptr<ByteStream> stream, ProgressSink& progress)
      : stream_(std::move(stream)), progress_(progress) {}

  absl::StatusOr<size_t> Read(std::span<std::byte> buffer) override {
    absl::StatusOr<size_t> n = stream_->Read(buffer);
    if (n.ok()) progress_.Advance(done_ += *n);
    return n;
  }

 private:
  const std::unique_ptr<ByteStream> stream_;
  ProgressSink& progress_;
  uint64_t done_ = 0;
};

unsigned Threads() {
  return std::max(1U, std::thread::hardware_concurrency());
}

// What is to be said of a layer as a whole. `wanted`: its diff id as the configuration has it.
Notices NoticesOf(const LayerStream& stream, const Digest& diff_id, const std::string* wanted) {
  Notices notices;
  if (stream.trailing_bytes() > 0) {
    notices.AddLayer(NoticeKind::kTrailingBytes, absl::StrCat(stream.trailing_bytes(), " bytes"));
  }
  // Of another algorithm there is nothing to compare.
  const absl::StatusOr<Digest> named =
      wanted != nullptr ? Digest::Parse(*wanted) : absl::NotFoundError("none");
  if (named.ok() && *named != diff_id) {
    notices.AddLayer(NoticeKind::kOtherDiffId, absl::StrCat("its archive has the digest ", diff_id.ToString(),
                                                            ", not ", named->ToString()));
  }
  return notices;
}

}  // namespace

struct ImagePusher::Work {
  const ImagePushRequest& request;
  ScratchDirectory scratch;
  ImageBuilder builder;
  std::optional<RemoteImage> source;  // none for a directory
  std::string source_config;          // JSON; empty for a directory
  p2p::Platform source_platform;      // as its configuration says, else as was asked for
  std::vector<std::string> source_diff_ids;
  std::vector<std::string> source_layers;  // files, if they are to be sent too
  ReusableBlobs reusable;
  LayerUsage usage;
  Notices notices;
  std::vector<BlobUpload> blobs;  // as they stand in builder.blobs()
};

absl::StatusOr<PushedImage> ImagePusher::Push(const ImagePushRequest& request) {
  if (request.target.digest) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.target.ToString(), ": an image is pushed to a tag, its digest is not known before"));
  }
  if (request.with_source == ImagePushRequest::Source::kPushToo && IsDirectory(request.source)) {
    return absl::InvalidArgumentError(
        absl::StrCat(p2p::OneLine(request.source), " is a directory: there is no source image to push too"));
  }
  absl::StatusOr<ScratchDirectory> scratch = ScratchDirectory::Make();
  if (!scratch.ok()) return scratch.status();
  const std::string directory = scratch->path();
  Work work{request, *std::move(scratch), {directory, request.chunk_size}, {}, "", {}, {}, {}, {}, {}, {},
            {}};
  absl::Status read = IsDirectory(request.source) ? ReadDirectory(work) : ReadImage(work);
  if (!read.ok()) return read;

  progress_.Begin("building file system", 0);
  absl::StatusOr<Bootstrap> bootstrap = work.builder.Finish();
  if (!bootstrap.ok()) return In(p2p::OneLine(request.source), bootstrap.status());
  absl::StatusOr<BlobUpload> upload = MakeBootstrapUpload(work, *bootstrap);
  if (!upload.ok()) return upload.status();
  absl::StatusOr<PushedImage> pushed = Send(work, *bootstrap, *std::move(upload));
  progress_.End();
  return pushed;
}

// ------------------------------------------------------------------------------------------- reading

absl::Status ImagePusher::ReadDirectory(Work& work) {
  if (absl::Status found = FindReusable(work); !found.ok()) return found;
  progress_.Begin("reading files", 0);
  absl::StatusOr<std::unique_ptr<FolderReader>> reader =
      FolderReader::Open(work.request.source, work.request.limits, work.usage);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<std::optional<size_t>> blob = work.builder.AddLayer(**reader, ImageTree::Whiteouts::kKeep);
  if (!blob.ok()) return In(p2p::OneLine(work.request.source), blob.status());
  work.notices.Merge((*reader)->notices());
  work.notices.Merge(work.builder.TakeNotices());
  return MakeUpload(work, *blob, std::nullopt);
}

absl::Status ImagePusher::ReadImage(Work& work) {
  const std::string& source = work.request.source;
  if (LooksLikePath(source))
    return absl::InvalidArgumentError(absl::StrCat("source ", p2p::OneLine(source), " is not a directory"));
  absl::StatusOr<p2p::ImageReference> reference = p2p::ImageReference::Parse(source);
  if (!reference.ok()) return reference.status();
  absl::StatusOr<RemoteImage> image = ResolveRemoteImage(registry_, *reference, work.request.platform);
  if (!image.ok()) return image.status();
  if (absl::Status checked = CheckLayers(*image); !checked.ok()) return checked;
  const std::string name = reference->ToString();
  absl::StatusOr<std::string> config =
      registry_.FetchWholeBlob(reference->origin, image->manifest.config.digest, p2p::kManifestBytesMax);
  if (!config.ok()) return In(name, config.status());
  absl::StatusOr<p2p::ImageConfig> parsed = p2p::ParseImageConfig(*config);
  if (!parsed.ok()) return In(name, parsed.status());
  work.source_config = *std::move(config);
  SetPlatform(work, std::move(parsed->platform));
  work.source_diff_ids = std::move(parsed->diff_ids);
  work.source = *std::move(image);

  if (absl::Status found = FindReusable(work); !found.ok()) return found;
  const std::vector<p2p::Descriptor>& layers = work.source->manifest.layers;
  LayerFetcher fetcher(registry_, reference->origin, layers, work.scratch.path(), progress_);
  for (size_t i = 0; i < layers.size(); ++i) {
    const absl::StatusOr<std::string> path = fetcher.Next();
    absl::Status read = path.ok() ? ReadLayer(work, i, *path) : path.status();
    if (!read.ok()) return In(absl::StrCat(name, ": layer ", layers[i].digest.ToString()), read);
  }
  return absl::OkStatus();
}

void ImagePusher::SetPlatform(Work& work, p2p::Platform platform) {
  const p2p::Platform& wanted = work.request.platform;
  const bool is_named = !platform.os.empty() && !platform.architecture.empty();
  if (is_named && !p2p::PlatformRank(wanted, platform)) {
    work.notices.AddLayer(NoticeKind::kOtherPlatform,
                          absl::StrCat(platform.ToString(), ", not ", wanted.ToString()));
  }
  // It was taken for what was asked for, and in an index it must say so, or nobody would find it.
  if (platform.architecture.empty()) {
    platform.architecture = wanted.architecture;
    platform.variant = wanted.variant;
  }
  if (platform.os.empty()) platform.os = wanted.os;
  work.source_platform = std::move(platform);
}

// A layer's file goes once it is open, unless it is to be sent.
absl::Status ImagePusher::ReadLayer(Work& work, size_t index, const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat(path, " can't be opened"));
  if (work.request.with_source == ImagePushRequest::Source::kLeave) {
    unlink(path.c_str());
  } else {
    work.source_layers.push_back(path);
  }
  return MakeLayer(work, index, file.get());
}

absl::Status ImagePusher::MakeLayer(Work& work, size_t index, int file) {
  const p2p::Descriptor& layer = work.source->manifest.layers[index];
  progress_.Begin(absl::StrCat("reading ", layer.digest.Short()), layer.size);
  const LayerLimits& limits = work.request.limits;
  absl::StatusOr<std::unique_ptr<LayerStream>> stream =
      LayerStream::Open(std::make_unique<WatchedStream>(std::make_unique<FileStream>(file), progress_),
                        limits.UnpackedBytesMax(layer.size));
  if (!stream.ok()) return stream.status();
  TarReader reader(**stream, limits, work.usage);
  absl::StatusOr<std::optional<size_t>> blob = work.builder.AddLayer(reader);
  if (!blob.ok()) return blob.status();
  absl::StatusOr<Digest> diff_id = (*stream)->Finish();
  if (!diff_id.ok()) return diff_id.status();
  const std::string name = layer.digest.ToString();
  const std::string* const wanted =
      index < work.source_diff_ids.size() ? &work.source_diff_ids[index] : nullptr;
  work.notices.Merge(NoticesOf(**stream, *diff_id, wanted), name);
  work.notices.Merge(reader.notices(), name);
  work.notices.Merge(work.builder.TakeNotices(), name);
  return MakeUpload(work, *blob, *diff_id);
}

// ------------------------------------------------------------------------------------- what is sent

// Also shows that the target can be reached before anything is fetched.
absl::Status ImagePusher::FindReusable(Work& work) {
  const p2p::ImageReference& target = work.request.target;
  if (absl::Status allowed = registry_.CheckPush(target.origin); !allowed.ok()) return allowed;
  p2p::Platform mountable = work.request.platform;
  mountable.os_features.emplace_back(p2p::kOsFeatureErofs);
  absl::StatusOr<RemoteImage> before = ResolveRemoteImage(registry_, target, mountable);
  if (before.ok()) work.reusable.Add(target.origin, before->manifest);
  for (const p2p::ImageReference& reference : work.request.reuse) {
    absl::StatusOr<RemoteImage> image = ResolveRemoteImage(registry_, reference, mountable);
    if (!image.ok()) return In(absl::StrCat("--reuse ", reference.ToString()), image.status());
    work.reusable.Add(reference.origin, image->manifest);
  }
  return absl::OkStatus();
}

// None of a layer without data, or whose data blob an earlier one has too.
absl::Status ImagePusher::MakeUpload(Work& work, std::optional<size_t> index,
                                     const std::optional<Digest>& source_diff_id) {
  if (!index || *index < work.blobs.size()) return absl::OkStatus();
  const DataBlob& blob = work.builder.blobs()[*index];
  BlobUpload upload{DescribeBlob(blob.recipe, source_diff_id), blob.path};
  absl::StatusOr<bool> reused = Reuse(work, blob.recipe, upload);
  if (!reused.ok()) return reused.status();
  if (!*reused && work.request.compression.kind == Compression::Kind::kZstd) {
    absl::Status compressed = CompressBlob(work, blob.recipe, upload);
    if (!compressed.ok()) return compressed;
  }
  if (upload.path != blob.path) unlink(blob.path.c_str());
  work.blobs.push_back(std::move(upload));
  return absl::OkStatus();
}

absl::StatusOr<bool> ImagePusher::Reuse(Work& work, const p2p::Recipe& recipe, BlobUpload& upload) {
  for (const ReusableBlobs::Found& found : work.reusable.Find(recipe, work.request.compression.kind)) {
    const absl::StatusOr<bool> there =
        registry_.TakeBlob(work.request.target.origin, found.descriptor.digest, found.origin);
    if (!there.ok()) return there;
    if (!*there) continue;
    DescribeReused(upload, found.descriptor);
    return true;
  }
  return false;
}

void ImagePusher::DescribeReused(BlobUpload& upload, const p2p::Descriptor& known) {
  if (known.media_type == p2p::media_type::kOctetStreamZstd)
    DescribeCompressed(upload.descriptor, known.digest, known.size);
  for (const std::string_view name : {p2p::annotation::kZstd, p2p::annotation::kSeekTable}) {
    const std::string_view value = known.Annotation(name);
    if (!value.empty()) Annotate(upload.descriptor, name, std::string(value));
  }
  upload.path.clear();
}

absl::Status ImagePusher::CompressBlob(Work& work, const p2p::Recipe& recipe, BlobUpload& upload) {
  const Compression& compression = work.request.compression;
  const ChunkGeometry geometry = recipe.geometry();
  progress_.Begin(absl::StrCat("compressing ", recipe.blob.Short()), recipe.size);
  std::string table;
  absl::StatusOr<CompressedFile> compressed = CompressFile(
      {upload.path, recipe.size, absl::StrCat(upload.path, ".zst"), recipe.chunk_size, compression.level,
       Threads()},
      [&](const std::vector<uint32_t>& frame_sizes) {
        if (frame_sizes.size() > 1) table = p2p::SeekTable::Serialize(geometry, frame_sizes);
        return table;
      },
      [this](uint64_t done) { progress_.Advance(done); });
  if (!compressed.ok()) return compressed.status();
  // Says of a plain one that there is nothing to be gained.
  Annotate(upload.descriptor, p2p::annotation::kZstd, compression.Describe());
  if (static_cast<double>(compressed->size) > kCompressedShareMax * static_cast<double>(recipe.size)) {
    unlink(compressed->path.c_str());
    return absl::OkStatus();
  }
  if (!table.empty())
    Annotate(upload.descriptor, p2p::annotation::kSeekTable, PlaceOfSeekTable(*compressed, table));
  DescribeCompressed(upload.descriptor, compressed->digest, compressed->size);
  upload.path = compressed->path;
  return absl::OkStatus();
}

absl::StatusOr<BlobUpload> ImagePusher::MakeBootstrapUpload(Work& work, const Bootstrap& bootstrap) {
  BlobUpload upload{Describe(p2p::media_type::kErofs, bootstrap.digest, bootstrap.size), bootstrap.path};
  const Compression& compression = work.request.compression;
  if (compression.kind == Compression::Kind::kNone) return upload;
  absl::StatusOr<CompressedFile> compressed = CompressFile(
      {bootstrap.path, bootstrap.size, absl::StrCat(bootstrap.path, ".zst"), kBootstrapFrameBytes,
       compression.level, Threads()},
      [](const std::vector<uint32_t>&) { return std::string(); }, [](uint64_t) {});
  if (!compressed.ok()) return compressed.status();
  Annotate(upload.descriptor, p2p::annotation::kBlobSize, absl::StrCat(bootstrap.size));
  Annotate(upload.descriptor, p2p::annotation::kZstd, compression.Describe());
  DescribeCompressed(upload.descriptor, compressed->digest, compressed->size);
  upload.path = compressed->path;
  return upload;
}

// ------------------------------------------------------------------------------------------- sending

absl::StatusOr<PushedImage> ImagePusher::Send(Work& work, const Bootstrap& bootstrap,
                                              const BlobUpload& bootstrap_upload) {
  PushedImage pushed;
  pushed.target = work.request.target;
  pushed.bootstrap = bootstrap_upload.descriptor;
  pushed.plain_bootstrap = bootstrap;
  pushed.notices = work.notices.Lines();
  ImageUploader uploader(registry_, progress_, work.request.target.origin);
  p2p::ImageManifest manifest;
  std::vector<Digest> diff_ids;
  std::vector<const p2p::Recipe*> recipes;
  for (size_t i = 0; i < work.blobs.size(); ++i) {
    const BlobUpload& upload = work.blobs[i];
    const p2p::Recipe& recipe = work.builder.blobs()[i].recipe;
    if (absl::Status sent = uploader.PushFile(upload, "pushing blob"); !sent.ok()) return sent;
    manifest.layers.push_back(upload.descriptor);
    diff_ids.push_back(recipe.blob);
    recipes.push_back(&recipe);
    pushed.blobs.push_back({upload.descriptor, recipe, upload.path.empty()});
  }
  absl::Status sent = uploader.PushFile(bootstrap_upload, "pushing bootstrap");
  if (!sent.ok()) return sent;
  manifest.layers.push_back(bootstrap_upload.descriptor);
  diff_ids.push_back(bootstrap.digest);
  if (work.source) manifest.annotations = work.source->manifest.annotations;

  absl::StatusOr<std::string> config =
      p2p::MakeLazyConfig(work.source_config, work.request.platform, diff_ids);
  if (!config.ok()) return config.status();
  absl::StatusOr<p2p::Descriptor> config_descriptor =
      uploader.PushBytes(p2p::media_type::kOciConfig, *config);
  if (!config_descriptor.ok()) return config_descriptor.status();
  manifest.config = *std::move(config_descriptor);

  const std::string body = p2p::SerializeManifest(manifest);
  const p2p::Descriptor descriptor = Describe(manifest.media_type, p2p::Sha256::Of(body), body.size());
  absl::StatusOr<std::optional<Digest>> recipe_manifest = uploader.PushRecipes(recipes, descriptor);
  if (!recipe_manifest.ok()) return recipe_manifest.status();
  pushed.recipe_manifest = *recipe_manifest;
  pushed.manifest = descriptor.digest;
  absl::StatusOr<Digest> tagged = Tag(work, uploader, manifest);
  if (!tagged.ok()) return tagged.status();
  if (*tagged != pushed.manifest) pushed.index = *tagged;
  return pushed;
}

// Gives the digest that the tag stands for.
absl::StatusOr<Digest> ImagePusher::Tag(Work& work, ImageUploader& uploader,
                                        const p2p::ImageManifest& manifest) {
  const p2p::ImageReference& target = work.request.target;
  if (work.request.with_source == ImagePushRequest::Source::kLeave) {
    return registry_.PushManifest(target.origin, target.tag, manifest.media_type,
                                  p2p::SerializeManifest(manifest));
  }
  absl::StatusOr<p2p::Descriptor> ordinary =
      uploader.PushCopy(*work.source, work.source_layers, work.source_config);
  if (!ordinary.ok()) return ordinary.status();
  absl::StatusOr<p2p::Descriptor> lazy = uploader.PushManifest(manifest);
  if (!lazy.ok()) return lazy.status();
  // The ordinary one first: who does not know os.features takes the first that suits.
  p2p::ImageIndex index;
  ordinary->platform = work.source_platform;
  lazy->platform = work.source_platform;
  lazy->platform->os_features.emplace_back(p2p::kOsFeatureErofs);
  index.manifests = {*std::move(ordinary), *std::move(lazy)};
  return registry_.PushManifest(target.origin, target.tag, index.media_type, p2p::SerializeIndex(index));
}

}  // namespace sluice
