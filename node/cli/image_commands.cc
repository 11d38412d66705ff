#include "node/cli/image_commands.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "node/cli/table_report.h"
#include "node/cli/units_text.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/units.h"
#include "node/image/image_inspector.h"
#include "node/image/image_pusher.h"
#include "node/image/progress.h"
#include "node/telemetry.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ImageFlags {
  std::string source;
  std::string reference;
  bool plain_http = false;
  std::string ca_file;
  std::string docker_config;
  std::string platform = p2p::Platform::Host().ToString();
  std::string chunk_size;
  bool quiet = false;
};

// Where docker and its kin look.
std::string DefaultDockerConfig() {
  const char* const directory = std::getenv("DOCKER_CONFIG");
  const char* const home = std::getenv("HOME");
  const std::string path = directory != nullptr ? absl::StrCat(directory, "/config.json")
                           : home != nullptr    ? absl::StrCat(home, "/.docker/config.json")
                                                : "";
  return !path.empty() && access(path.c_str(), F_OK) == 0 ? path : "";
}

// A client with what it runs on.
class RegistrySession {
 public:
  RegistrySession(const ImageFlags& flags, std::vector<std::string> registries)
      : executor_("registry", 1),
        client_({clock_, executor_, telemetry_}, OptionsOf(flags, std::move(registries))) {}

  p2p::RegistryClient& client() { return client_; }

 private:
  static p2p::RegistryOptions OptionsOf(const ImageFlags& flags, std::vector<std::string> registries) {
    p2p::RegistryOptions options;
    options.docker_config_path = flags.docker_config.empty() ? DefaultDockerConfig() : flags.docker_config;
    options.ca_file = flags.ca_file;
    if (flags.plain_http) options.plain_http = std::move(registries);
    return options;
  }

  SteadyClock clock_;
  Telemetry telemetry_;
  AsioExecutor executor_;
  p2p::RegistryClient client_;
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

Json BlobJson(const p2p::Descriptor& blob) {
  return {{"digest", blob.digest.ToString()},
          {"size_bytes", blob.size},
          {"chunk_size_bytes", std::stoul(blob.annotations.at(std::string(p2p::annotation::kBlobChunkSize)))},
          {"root", blob.annotations.at(std::string(p2p::annotation::kBlobRoot))}};
}

std::string PushJson(const PushedImage& image) {
  Json json = {
      {"reference", image.target.ToString()},
      {"digest", image.manifest.ToString()},
      {"bootstrap", {{"digest", image.bootstrap.digest.ToString()}, {"size_bytes", image.bootstrap.size}}},
      {"blobs", Json::array()}};
  for (const p2p::Descriptor& blob : image.blobs) json["blobs"].push_back(BlobJson(blob));
  if (image.recipe_manifest) json["recipe_digest"] = image.recipe_manifest->ToString();
  return json.dump() + "\n";
}

std::string PushText(const PushedImage& image) {
  std::string text =
      absl::StrCat("pushed     ", image.target.ToString(), "\ndigest     ", image.manifest.ToString(),
                   "\nbootstrap  ", BytesText(image.bootstrap.size), "\n");
  for (const p2p::Descriptor& blob : image.blobs) {
    absl::StrAppend(&text, "blob       ", blob.digest.ToString(), ", ", BytesText(blob.size), "\n");
  }
  return text;
}

absl::Status RunPush(const GlobalFlags& global, const ImageFlags& flags) {
  absl::StatusOr<p2p::ImageReference> target = p2p::ImageReference::Parse(flags.reference);
  if (!target.ok()) return target.status();
  absl::StatusOr<p2p::Platform> platform = p2p::Platform::Parse(flags.platform);
  if (!platform.ok()) return platform.status();
  absl::StatusOr<std::optional<uint32_t>> chunk_size = ReadChunkSize(flags.chunk_size);
  if (!chunk_size.ok()) return chunk_size.status();

  std::vector<std::string> registries = {target->origin.registry};
  if (absl::StatusOr<p2p::ImageReference> source = p2p::ImageReference::Parse(flags.source); source.ok()) {
    registries.push_back(source->origin.registry);
  }
  RegistrySession session(flags, std::move(registries));
  const std::unique_ptr<ProgressSink> progress =
      MakeProgress(flags.quiet ? ProgressStyle::kSilent : ProgressStyle::kBar);
  ImagePusher pusher(session.client(), *progress);
  absl::StatusOr<PushedImage> pushed =
      pusher.Push({flags.source, *target, *platform, *chunk_size, FlattenLimits()});
  if (!pushed.ok()) return pushed.status();
  std::fputs((global.output == OutputFormat::kJson ? PushJson(*pushed) : PushText(*pushed)).c_str(), stdout);
  return absl::OkStatus();
}

bool HasRecipe(const ImageReport& report, const Digest& blob) {
  return std::find(report.recipe_blobs.begin(), report.recipe_blobs.end(), blob) != report.recipe_blobs.end();
}

// What a layer's registry keeps of the blob, whose own digest and size are of its plain bytes.
struct StoredLayer {
  Digest digest;
  uint64_t size;
};

StoredLayer StoredOf(const ImageReport& report, const BlobSpec& blob) {
  const StoredForm* const stored = blob.StoredAt(report.image.reference.origin);
  return stored ? StoredLayer{stored->digest, stored->size} : StoredLayer{blob.digest, blob.size};
}

Json SpecJson(const ImageReport& report, const BlobSpec& blob) {
  const StoredLayer stored = StoredOf(report, blob);
  return {{"digest", blob.digest.ToString()},
          {"size_bytes", blob.size},
          {"stored_digest", stored.digest.ToString()},
          {"stored_size_bytes", stored.size}};
}

std::string InspectJson(const ImageReport& report) {
  Json json = {{"reference", report.image.reference.ToString()},
               {"digest", report.image.digest.ToString()},
               {"platform", report.config.platform.ToString()},
               {"lazy", report.lazy.has_value()},
               {"layers", Json::array()}};
  for (const p2p::Descriptor& layer : report.image.manifest.layers) {
    json["layers"].push_back(
        {{"media_type", layer.media_type}, {"digest", layer.digest.ToString()}, {"size_bytes", layer.size}});
  }
  if (!report.lazy) return json.dump() + "\n";
  json["bootstrap"] = SpecJson(report, report.lazy->bootstrap);
  json["blobs"] = Json::array();
  for (const BlobSpec& blob : report.lazy->blobs) {
    Json entry = SpecJson(report, blob);
    entry["chunk_size_bytes"] = blob.chunk_size;
    entry["recipe"] = HasRecipe(report, blob.digest);
    if (blob.root) entry["root"] = blob.root->Hex();
    json["blobs"].push_back(std::move(entry));
  }
  return json.dump() + "\n";
}

std::string PlainText(const ImageReport& report, const BlobSpec& blob) {
  if (!blob.StoredAt(report.image.reference.origin)) return "as it is";
  return absl::StrCat(blob.digest.ToString(), ", ", BytesText(blob.size));
}

// A layer's role, and the blob that it is plain.
std::vector<std::string> RoleOf(const ImageReport& report, const p2p::Descriptor& layer) {
  if (!report.lazy) return {"layer", "-"};
  if (layer.digest == StoredOf(report, report.lazy->bootstrap).digest)
    return {"bootstrap", PlainText(report, report.lazy->bootstrap)};
  const std::vector<BlobSpec>& blobs = report.lazy->blobs;
  const auto blob = std::find_if(blobs.begin(), blobs.end(), [&](const BlobSpec& spec) {
    return StoredOf(report, spec).digest == layer.digest;
  });
  if (blob == blobs.end()) return {"-", "-"};
  return {absl::StrCat("blob", blob->root ? ", root" : ", no root",
                       HasRecipe(report, blob->digest) ? ", recipe" : ", no recipe"),
          PlainText(report, *blob)};
}

std::string InspectText(const ImageReport& report) {
  std::string text = absl::StrCat(
      "image     ", report.image.reference.ToString(), "\ndigest    ", report.image.digest.ToString(),
      "\nplatform  ", report.config.platform.ToString(), "\nlazy      ",
      report.lazy ? "yes: it can be mounted before it is there\n"
                  : "no: an ordinary image; `sluice image push` makes a lazy one of it\n");
  std::vector<std::vector<std::string>> rows;
  for (const p2p::Descriptor& layer : report.image.manifest.layers) {
    std::vector<std::string> role = RoleOf(report, layer);
    rows.push_back({layer.digest.ToString(), BytesText(layer.size), std::move(role[0]), layer.media_type,
                    std::move(role[1])});
  }
  return text + FormatTable({"LAYER", "SIZE", "ROLE", "TYPE", "PLAIN"}, rows);
}

absl::Status RunInspect(const GlobalFlags& global, const ImageFlags& flags) {
  absl::StatusOr<p2p::ImageReference> reference = p2p::ImageReference::Parse(flags.reference);
  if (!reference.ok()) return reference.status();
  absl::StatusOr<p2p::Platform> platform = p2p::Platform::Parse(flags.platform);
  if (!platform.ok()) return platform.status();
  RegistrySession session(flags, {reference->origin.registry});
  absl::StatusOr<ImageReport> report = InspectImage(session.client(), *reference, *platform);
  if (!report.ok()) return report.status();
  std::fputs((global.output == OutputFormat::kJson ? InspectJson(*report) : InspectText(*report)).c_str(),
             stdout);
  return absl::OkStatus();
}

void AddRegistryFlags(CLI::App& command, ImageFlags& flags) {
  command.add_flag("--plain-http", flags.plain_http, "Speak http, not https, to the registries named here");
  command.add_option("--ca-file", flags.ca_file, "Certificates (PEM) to trust instead of the system's")
      ->check(CLI::ExistingFile);
  command
      .add_option("--docker-config", flags.docker_config,
                  "Credentials (default: config.json in $DOCKER_CONFIG or ~/.docker)")
      ->check(CLI::ExistingFile);
  command.add_option("--platform", flags.platform, "os/architecture[/variant]")->capture_default_str();
}

}  // namespace

void AddImageCommands(CLI::App& app, Invocation& invocation) {
  CLI::App* image = app.add_subcommand("image", "Make, push and inspect lazy images");
  image->require_subcommand(1);
  auto flags = std::make_shared<ImageFlags>();

  CLI::App* push = image->add_subcommand("push", "Make a lazy image of SOURCE and push it to REF");
  push->add_option("SOURCE", flags->source, "A directory, or an image reference")->required();
  push->add_option("REF", flags->reference, "Where to, as registry/repository[:tag]")->required();
  AddRegistryFlags(*push, *flags);
  push->add_option("--chunk-size", flags->chunk_size,
                   "Of verification and transfer, e.g. 256Ki (default: by the blob's size)");
  push->add_flag("-q,--quiet", flags->quiet, "No progress bar");
  push->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunPush(invocation.flags, *flags); };
  });

  CLI::App* inspect =
      image->add_subcommand("inspect", "Say what is in the image REF, and whether it is lazy");
  inspect->add_option("REF", flags->reference, "The image, as registry/repository[:tag][@digest]")
      ->required();
  AddRegistryFlags(*inspect, *flags);
  inspect->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunInspect(invocation.flags, *flags); };
  });
}

}  // namespace sluice::cli
