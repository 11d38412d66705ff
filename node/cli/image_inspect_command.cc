#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/cli/image_commands.h"
#include "node/cli/registry_session.h"
#include "node/cli/table_report.h"
#include "node/cli/units_text.h"
#include "node/image/image_inspector.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  std::string reference;
  std::string platform = p2p::Platform::Host().ToString();
  RegistryFlags registry;
};

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

absl::Status RunInspect(const GlobalFlags& global, const InspectFlags& flags) {
  absl::StatusOr<p2p::ImageReference> reference = p2p::ImageReference::Parse(flags.reference);
  if (!reference.ok()) return reference.status();
  absl::StatusOr<p2p::Platform> platform = p2p::Platform::Parse(flags.platform);
  if (!platform.ok()) return platform.status();
  RegistrySession session(flags.registry, {reference->origin.registry});
  absl::StatusOr<ImageReport> report = InspectImage(session.client(), *reference, *platform);
  if (!report.ok()) return report.status();
  std::fputs((global.output == OutputFormat::kJson ? InspectJson(*report) : InspectText(*report)).c_str(),
             stdout);
  return absl::OkStatus();
}

}  // namespace

void AddImageInspectCommand(CLI::App& image, Invocation& invocation) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* inspect = image.add_subcommand("inspect", "Say what is in the image REF, and whether it is lazy");
  inspect->add_option("REF", flags->reference, "The image, as registry/repository[:tag][@digest]")
      ->required();
  inspect->add_option("--platform", flags->platform, "os/architecture[/variant]")->capture_default_str();
  AddRegistryFlags(*inspect, flags->registry);
  inspect->callback([&invocation, flags] {
    invocation.run = [&invocation, flags] { return RunInspect(invocation.flags, *flags); };
  });
}

}  // namespace sluice::cli
