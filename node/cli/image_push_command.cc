#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/cli/image_commands.h"
#include "node/cli/registry_session.h"
#include "node/cli/units_text.h"
#include "node/daemon/units.h"
#include "node/image/image_pusher.h"
#include "node/image/progress.h"
#include "p2p/http/text.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

struct PushFlags {
  std::string source;
  std::string reference;
  std::string platform = p2p::Platform::Host().ToString();
  std::string chunk_size;
  std::string compression = "zstd";
  std::vector<std::string> reuse;
  uint64_t unpack_ratio_max = LayerLimits().ratio_max;
  bool with_source = false;
  bool quiet = false;
  RegistryFlags registry;
};

absl::StatusOr<std::optional<uint32_t>> ReadChunkSize(const std::string& text) {
  if (text.empty()) return std::nullopt;
  absl::StatusOr<uint64_t> bytes = ParseSize(text);
  if (!bytes.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--chunk-size: ", bytes.status().message()));
  }
  // The blob's size is not known yet; a chunk that fits a blob of one byte is sound in itself.
  if (*bytes > kChunkSizeMax || !ChunkGeometry::Validate(1, static_cast<uint32_t>(*bytes)).ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--chunk-size ", text, ": it must be a power of two between 16Ki and 64Mi"));
  }
  return static_cast<uint32_t>(*bytes);
}

// A flag's value, or an error that names the flag.
template <typename T>
absl::StatusOr<T> Of(std::string_view flag, absl::StatusOr<T> value) {
  if (value.ok()) return value;
  return absl::Status(value.status().code(), absl::StrCat(std::string(flag), ": ", value.status().message()));
}

absl::StatusOr<ImagePushRequest> MakeRequest(const PushFlags& flags) {
  absl::StatusOr<p2p::ImageReference> target = p2p::ImageReference::Parse(flags.reference);
  absl::StatusOr<p2p::Platform> platform = p2p::Platform::Parse(flags.platform);
  absl::StatusOr<std::optional<uint32_t>> chunk_size = ReadChunkSize(flags.chunk_size);
  absl::StatusOr<Compression> compression = Of("--compression", Compression::Parse(flags.compression));
  for (const absl::Status& status :
       {target.status(), platform.status(), chunk_size.status(), compression.status()}) {
    if (!status.ok()) return status;
  }
  ImagePushRequest request;
  request.source = flags.source;
  request.target = *std::move(target);
  request.platform = *std::move(platform);
  request.chunk_size = *chunk_size;
  request.compression = *compression;
  for (const std::string& text : flags.reuse) {
    absl::StatusOr<p2p::ImageReference> reuse = Of("--reuse", p2p::ImageReference::Parse(text));
    if (!reuse.ok()) return reuse.status();
    request.reuse.push_back(*std::move(reuse));
  }
  request.limits.ratio_max = flags.unpack_ratio_max;
  if (flags.with_source) request.with_source = ImagePushRequest::Source::kPushToo;
  return request;
}

std::vector<std::string> RegistriesOf(const ImagePushRequest& request) {
  std::vector<std::string> registries = {request.target.origin.registry};
  for (const p2p::ImageReference& reuse : request.reuse) registries.push_back(reuse.origin.registry);
  absl::StatusOr<p2p::ImageReference> source = p2p::ImageReference::Parse(request.source);
  if (source.ok()) registries.push_back(source->origin.registry);
  return registries;
}

Json BlobJson(const PushedImage::Blob& blob) {
  return {{"digest", blob.recipe.blob.ToString()},
          {"size_bytes", blob.recipe.size},
          {"chunk_size_bytes", blob.recipe.chunk_size},
          {"root", blob.recipe.root.Hex()},
          {"stored_digest", blob.descriptor.digest.ToString()},
          {"stored_size_bytes", blob.descriptor.size},
          {"reused", blob.reused}};
}

std::string PushJson(const PushedImage& image) {
  Json json = {{"reference", image.target.ToString()},
               {"digest", image.manifest.ToString()},
               {"bootstrap",
                {{"digest", image.plain_bootstrap.digest.ToString()},
                 {"size_bytes", image.plain_bootstrap.size},
                 {"stored_digest", image.bootstrap.digest.ToString()},
                 {"stored_size_bytes", image.bootstrap.size}}},
               {"blobs", Json::array()},
               {"notices", image.notices}};
  for (const PushedImage::Blob& blob : image.blobs) json["blobs"].push_back(BlobJson(blob));
  if (image.index) json["index_digest"] = image.index->ToString();
  if (image.recipe_manifest) json["recipe_digest"] = image.recipe_manifest->ToString();
  return json.dump() + "\n";
}

std::string SizesText(uint64_t plain, uint64_t stored) {
  if (plain == stored) return BytesText(plain);
  return absl::StrCat(BytesText(plain), ", ", BytesText(stored), " compressed");
}

std::string PushText(const PushedImage& image) {
  std::string text =
      absl::StrCat("pushed     ", image.target.ToString(), "\ndigest     ", image.manifest.ToString(),
                   "\nbootstrap  ", SizesText(image.plain_bootstrap.size, image.bootstrap.size), "\n");
  for (const PushedImage::Blob& blob : image.blobs) {
    absl::StrAppend(&text, "blob       ", blob.recipe.blob.ToString(), ", ",
                    SizesText(blob.recipe.size, blob.descriptor.size),
                    blob.reused ? ", was there already" : "", "\n");
  }
  return text;
}

absl::Status RunPush(const GlobalFlags& global, const PushFlags& flags) {
  absl::StatusOr<ImagePushRequest> request = MakeRequest(flags);
  if (!request.ok()) return request.status();
  RegistrySession session(flags.registry, RegistriesOf(*request));
  const std::unique_ptr<ProgressSink> progress =
      MakeProgress(flags.quiet ? ProgressStyle::kSilent : ProgressStyle::kBar);
  absl::StatusOr<PushedImage> pushed = ImagePusher(session.client(), *progress).Push(*request);
  if (!pushed.ok()) return pushed.status();
  for (const std::string& notice : pushed->notices)
    std::fprintf(stderr, "sluice: %s: %s\n", p2p::OneLine(flags.source).c_str(), notice.c_str());
  std::fputs((global.output == OutputFormat::kJson ? PushJson(*pushed) : PushText(*pushed)).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddImagePushCommand(CLI::App& image, Invocation& invocation) {
  auto flags = std::make_shared<PushFlags>();
  CLI::App* push = image.add_subcommand("push", "Make a lazy image of SOURCE and push it to REF");
  push->add_option("SOURCE", flags->source, "A directory, or an image reference")->required();
  push->add_option("REF", flags->reference, "Where to, as registry/repository[:tag]")->required();
  push->add_option("--platform", flags->platform, "os/architecture[/variant]")->capture_default_str();
  AddRegistryFlags(*push, flags->registry);
  push->add_option("--compression", flags->compression, "Of what is sent: zstd, zstd:LEVEL or none")
      ->capture_default_str();
  push->add_option("--reuse", flags->reuse,
                   "An image whose blobs are taken as they are where they are the same, as those of an "
                   "earlier REF are; may be given more than once");
  push->add_flag("--with-source", flags->with_source,
                 "Push the source image too: REF becomes an index of both, for hosts that can't mount yet");
  push->add_option("--chunk-size", flags->chunk_size,
                   "Of verification and transfer, e.g. 256Ki (default: by the blob's size)");
  push->add_option("--unpack-ratio-max", flags->unpack_ratio_max,
                   "Refuse a layer that unpacks to more than so many times its size")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  push->add_flag("-q,--quiet", flags->quiet, "No progress bar");
  push->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunPush(invocation.flags, *flags); };
  });
}

}  // namespace sluice::cli
