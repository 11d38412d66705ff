#include "p2p/registry/manifest.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/http/text.h"
#include "p2p/registry/lenient_text.h"
#include "p2p/registry/platform_match.h"

namespace sluice::p2p {
namespace {

using nlohmann::json;

constexpr size_t kPlatformPartBytesMax = 64;

absl::Status Invalid(absl::string_view where, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", why));
}

// Looks at brackets only: whether they match is for the parser to say, but it must not build what is too
// deep.
bool IsTooDeep(std::string_view bytes) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kManifestDepthMax) return true;
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return false;
}

absl::StatusOr<json> ParseJson(std::string_view bytes, absl::string_view what) {
  if (bytes.size() > kManifestBytesMax) {
    return Invalid(what, absl::StrCat("it has ", bytes.size(), " bytes, more than ", kManifestBytesMax));
  }
  if (IsTooDeep(bytes)) {
    return Invalid(what, absl::StrCat("its JSON is nested deeper than ", kManifestDepthMax));
  }
  json document = json::parse(WithReplacedText(bytes), nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return Invalid(what, "it is not JSON");
  if (!document.is_object()) return Invalid(what, "it is JSON, but not an object");
  return document;
}

// The member, or nullptr if it is absent or null.
const json* Find(const json& object, absl::string_view key) {
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// A field's place in the document, for messages: "layers[3].digest".
std::string Member(absl::string_view where, absl::string_view key) {
  return where.empty() ? std::string(key) : absl::StrCat(where, ".", key);
}

absl::StatusOr<std::string> ReadString(const json& object, absl::string_view key, absl::string_view where) {
  const json* value = Find(object, key);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return Invalid(Member(where, key), "it is not a string");
  return value->get<std::string>();
}

absl::StatusOr<Annotations> ReadAnnotations(const json& object, absl::string_view where) {
  Annotations annotations;
  const json* value = Find(object, "annotations");
  if (value == nullptr) return annotations;
  if (!value->is_object()) return Invalid(Member(where, "annotations"), "it is not an object");
  for (const auto& [name, text] : value->items()) {
    if (!text.is_string()) {
      return Invalid(Member(where, "annotations"),
                     absl::StrCat("the value of ", Quoted(name), " is not a string"));
    }
    annotations.emplace(name, text.get<std::string>());
  }
  return annotations;
}

absl::StatusOr<std::vector<std::string>> ReadStrings(const json& object, absl::string_view key,
                                                     absl::string_view where) {
  std::vector<std::string> strings;
  const json* value = Find(object, key);
  if (value == nullptr) return strings;
  if (!value->is_array()) return Invalid(Member(where, key), "it is not an array");
  for (const json& text : *value) {
    if (!text.is_string()) return Invalid(Member(where, key), "an element is not a string");
    strings.push_back(text.get<std::string>());
  }
  return strings;
}

absl::StatusOr<Platform> ReadPlatform(const json& object, absl::string_view where) {
  if (!object.is_object()) return Invalid(where, "it is not an object");
  auto os = ReadString(object, "os", where);
  auto architecture = ReadString(object, "architecture", where);
  auto variant = ReadString(object, "variant", where);
  auto os_features = ReadStrings(object, "os.features", where);
  for (const absl::Status& status :
       {os.status(), architecture.status(), variant.status(), os_features.status()}) {
    if (!status.ok()) return status;
  }
  return Platform{*std::move(os), *std::move(architecture), *std::move(variant), *std::move(os_features)};
}

absl::StatusOr<uint64_t> ReadSize(const json& object, absl::string_view where) {
  const json* value = Find(object, "size");
  const std::string field = Member(where, "size");
  if (value == nullptr) return Invalid(field, "it is missing");
  if (!value->is_number_unsigned()) return Invalid(field, "it is not a whole number of bytes, 0 or more");
  const uint64_t size = value->get<uint64_t>();
  if (size > kBlobSizeMax) return Invalid(field, absl::StrCat(size, " is more than ", kBlobSizeMax));
  return size;
}

absl::StatusOr<Descriptor> ReadDescriptor(const json& object, absl::string_view where) {
  if (!object.is_object()) return Invalid(where, "it is not a descriptor (an object)");
  Descriptor descriptor;
  auto media_type = ReadString(object, "mediaType", where);
  auto digest_text = ReadString(object, "digest", where);
  auto artifact_type = ReadString(object, "artifactType", where);
  auto annotations = ReadAnnotations(object, where);
  auto size = ReadSize(object, where);
  for (const absl::Status& status : {media_type.status(), digest_text.status(), artifact_type.status(),
                                     annotations.status(), size.status()}) {
    if (!status.ok()) return status;
  }
  if (media_type->empty()) return Invalid(Member(where, "mediaType"), "it is missing");
  absl::StatusOr<Digest> digest = Digest::Parse(*digest_text);
  if (!digest.ok()) return Invalid(Member(where, "digest"), digest.status().message());
  if (const json* platform = Find(object, "platform")) {
    absl::StatusOr<Platform> read = ReadPlatform(*platform, Member(where, "platform"));
    if (!read.ok()) return read.status();
    descriptor.platform = *std::move(read);
  }
  descriptor.media_type = *std::move(media_type);
  descriptor.digest = *digest;
  descriptor.size = *size;
  descriptor.artifact_type = *std::move(artifact_type);
  descriptor.annotations = *std::move(annotations);
  return descriptor;
}

absl::StatusOr<std::vector<Descriptor>> ReadDescriptors(const json& document, absl::string_view key,
                                                        size_t count_max) {
  const json* array = Find(document, key);
  if (array == nullptr || !array->is_array()) return Invalid(key, "it is missing, or not an array");
  if (array->size() > count_max) {
    return Invalid(key, absl::StrCat("it has ", array->size(), " entries, more than ", count_max));
  }
  std::vector<Descriptor> descriptors;
  descriptors.reserve(array->size());
  for (size_t i = 0; i < array->size(); ++i) {
    absl::StatusOr<Descriptor> descriptor = ReadDescriptor((*array)[i], absl::StrCat(key, "[", i, "]"));
    if (!descriptor.ok()) return descriptor.status();
    descriptors.push_back(*std::move(descriptor));
  }
  return descriptors;
}

absl::StatusOr<Manifest> ReadManifest(const json& document, std::string media_type) {
  ImageManifest manifest;
  manifest.media_type = std::move(media_type);
  const json* config = Find(document, "config");
  if (config == nullptr) return Invalid("config", "it is missing");
  auto config_descriptor = ReadDescriptor(*config, "config");
  auto layers = ReadDescriptors(document, "layers", kLayersMax);
  auto artifact_type = ReadString(document, "artifactType", "");
  auto annotations = ReadAnnotations(document, "");
  for (const absl::Status& status :
       {config_descriptor.status(), layers.status(), artifact_type.status(), annotations.status()}) {
    if (!status.ok()) return status;
  }
  if (const json* subject = Find(document, "subject")) {
    absl::StatusOr<Descriptor> read = ReadDescriptor(*subject, "subject");
    if (!read.ok()) return read.status();
    manifest.subject = *std::move(read);
  }
  manifest.config = *std::move(config_descriptor);
  manifest.layers = *std::move(layers);
  manifest.artifact_type = *std::move(artifact_type);
  manifest.annotations = *std::move(annotations);
  return manifest;
}

absl::StatusOr<Manifest> ReadIndex(const json& document, std::string media_type) {
  auto manifests = ReadDescriptors(document, "manifests", kIndexEntriesMax);
  auto annotations = ReadAnnotations(document, "");
  if (!manifests.ok()) return manifests.status();
  if (!annotations.ok()) return annotations.status();
  return ImageIndex{std::move(media_type), *std::move(manifests), *std::move(annotations)};
}

// The media type that header and document agree on; what it would be taken for if neither names one.
absl::StatusOr<std::string> AgreedMediaType(const json& document, std::string_view content_type) {
  const std::string_view header =
      Std(absl::StripAsciiWhitespace(Abs(content_type.substr(0, content_type.find(';')))));
  auto own = ReadString(document, "mediaType", "");
  if (!own.ok()) return own.status();
  // Some registries send a general type; then the document speaks for itself.
  const bool header_is_general =
      header.empty() || header == "application/json" || header == media_type::kOctetStream;
  if (own->empty()) {
    if (!header_is_general) return std::string(header);
    return std::string(document.contains("manifests") ? media_type::kOciIndex : media_type::kOciManifest);
  }
  if (!header_is_general && header != *own) {
    return Invalid("mediaType", absl::StrCat("the document says ", Quoted(*own),
                                             ", the registry's Content-Type ", Quoted(header)));
  }
  return *std::move(own);
}

json ToJson(const Annotations& annotations) {
  json object = json::object();
  for (const auto& [name, value] : annotations) object[name] = value;
  return object;
}

json ToJson(const Descriptor& descriptor) {
  json object = {{"mediaType", descriptor.media_type},
                 {"digest", descriptor.digest.ToString()},
                 {"size", descriptor.size}};
  if (!descriptor.annotations.empty()) object["annotations"] = ToJson(descriptor.annotations);
  if (!descriptor.artifact_type.empty()) object["artifactType"] = descriptor.artifact_type;
  if (descriptor.platform) {
    json& platform = object["platform"];
    platform = {{"os", descriptor.platform->os}, {"architecture", descriptor.platform->architecture}};
    if (!descriptor.platform->variant.empty()) platform["variant"] = descriptor.platform->variant;
    if (!descriptor.platform->os_features.empty()) platform["os.features"] = descriptor.platform->os_features;
  }
  return object;
}

json ToJson(const std::vector<Descriptor>& descriptors) {
  json array = json::array();
  for (const Descriptor& descriptor : descriptors) array.push_back(ToJson(descriptor));
  return array;
}

// nlohmann's objects are ordered maps, so keys come out sorted. Bytes that are no UTF-8 are replaced, not
// thrown at.
std::string Dump(const json& document) {
  return document.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

absl::StatusOr<std::vector<std::string>> ReadDiffIds(const json& document) {
  const json* rootfs = Find(document, "rootfs");
  if (rootfs == nullptr) return std::vector<std::string>();
  if (!rootfs->is_object()) return Invalid("rootfs", "it is not an object");
  auto texts = ReadStrings(*rootfs, "diff_ids", "rootfs");
  if (!texts.ok()) return texts.status();
  if (texts->size() > kLayersMax) {
    return Invalid("rootfs.diff_ids",
                   absl::StrCat("it has ", texts->size(), " entries, more than ", kLayersMax));
  }
  return texts;
}

// Entries of history that are not marked empty must be as many as the diff ids.
json LazyHistory(const json& source, size_t layer_count) {
  json history = json::array();
  if (const json* old = Find(source, "history"); old != nullptr && old->is_array()) {
    for (const json& entry : *old) {
      if (!entry.is_object()) continue;
      history.push_back(entry);
      history.back()["empty_layer"] = true;
    }
  }
  for (size_t i = 0; i < layer_count; ++i) history.push_back({{"created_by", "sluice image push"}});
  return history;
}

}  // namespace

absl::StatusOr<Platform> Platform::Parse(std::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(absl::AsciiStrToLower(Abs(text)), '/');
  bool valid = parts.size() == 2 || parts.size() == 3;
  for (const std::string& part : parts) {
    valid = valid && !part.empty() && part.size() <= kPlatformPartBytesMax &&
            part.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_.-") == std::string::npos;
  }
  if (!valid) {
    return absl::InvalidArgumentError(absl::StrCat(
        "platform ", Quoted(text), ": expected os/architecture[/variant], e.g. \"linux/amd64\""));
  }
  Platform named{parts[0], parts[1], parts.size() == 3 ? parts[2] : "", {}};
  Platform platform = Normalized(named);
  // What was asked for is to be seen in messages and in what is pushed, and no more than that.
  if (named.architecture == platform.architecture) platform.variant = named.variant;
  return platform;
}

Platform Platform::Host() {
#if defined(__x86_64__)
  return {"linux", "amd64", "", {}};
#elif defined(__aarch64__)
  return {"linux", "arm64", "", {}};
#else
#error "name this architecture as the OCI image specification (Go's GOARCH) does"
#endif
}

std::string Platform::ToString() const {
  return absl::StrCat(os, "/", architecture, variant.empty() ? "" : "/", variant);
}

std::string_view Descriptor::Annotation(std::string_view name) const {
  const auto found = annotations.find(std::string(name));
  return found == annotations.end() ? std::string_view() : found->second;
}

absl::StatusOr<Manifest> ParseManifest(std::string_view bytes, std::string_view content_type) {
  absl::StatusOr<json> document = ParseJson(bytes, "manifest");
  if (!document.ok()) return document.status();
  // Two readers that disagree on what the same digest means are a way past a check.
  if (document->contains("manifests") && (document->contains("layers") || document->contains("config"))) {
    return absl::InvalidArgumentError("manifest: it is both an image and an index");
  }
  auto media_type = AgreedMediaType(*document, content_type);
  if (!media_type.ok()) return media_type.status();
  const bool is_manifest =
      *media_type == media_type::kOciManifest || *media_type == media_type::kDockerManifest;
  const bool is_index =
      *media_type == media_type::kOciIndex || *media_type == media_type::kDockerManifestList;
  if (!is_manifest && !is_index) {
    return absl::UnimplementedError(absl::StrCat("manifest: media type ", Quoted(*media_type),
                                                 " is neither an OCI nor a docker schema 2 image"));
  }
  const json* version = Find(*document, "schemaVersion");
  if (version == nullptr || *version != 2) return Invalid("schemaVersion", "it is not 2");
  return is_manifest ? ReadManifest(*document, *std::move(media_type))
                     : ReadIndex(*document, *std::move(media_type));
}

std::string SerializeManifest(const ImageManifest& manifest) {
  json document = {{"schemaVersion", 2},
                   {"mediaType", manifest.media_type},
                   {"config", ToJson(manifest.config)},
                   {"layers", ToJson(manifest.layers)}};
  if (!manifest.artifact_type.empty()) document["artifactType"] = manifest.artifact_type;
  if (manifest.subject) document["subject"] = ToJson(*manifest.subject);
  if (!manifest.annotations.empty()) document["annotations"] = ToJson(manifest.annotations);
  return Dump(document);
}

std::string SerializeIndex(const ImageIndex& index) {
  json document = {
      {"schemaVersion", 2}, {"mediaType", index.media_type}, {"manifests", ToJson(index.manifests)}};
  if (!index.annotations.empty()) document["annotations"] = ToJson(index.annotations);
  return Dump(document);
}

absl::StatusOr<ImageConfig> ParseImageConfig(std::string_view bytes) {
  absl::StatusOr<json> document = ParseJson(bytes, "image configuration");
  if (!document.ok()) return document.status();
  auto platform = ReadPlatform(*document, "image configuration");
  auto diff_ids = ReadDiffIds(*document);
  if (!platform.ok()) return platform.status();
  if (!diff_ids.ok()) return diff_ids.status();
  return ImageConfig{*std::move(platform), *std::move(diff_ids)};
}

absl::StatusOr<std::string> MakeLazyConfig(std::string_view source, const Platform& platform,
                                           std::span<const Digest> diff_ids) {
  json document = {{"os", platform.os}, {"architecture", platform.architecture}};
  if (!platform.variant.empty()) document["variant"] = platform.variant;
  if (!source.empty()) {
    // Read for its checks: what we don't understand of it is kept as it is.
    if (auto config = ParseImageConfig(source); !config.ok()) return config.status();
    document = *ParseJson(source, "image configuration");
  }
  json& features = document["os.features"];
  if (!features.is_array()) features = json::array();
  if (std::find(features.begin(), features.end(), kOsFeatureErofs) == features.end()) {
    features.push_back(kOsFeatureErofs);
  }
  json& ids = document["rootfs"]["diff_ids"];
  ids = json::array();
  for (const Digest& id : diff_ids) ids.push_back(id.ToString());
  document["rootfs"]["type"] = "layers";
  document["history"] = LazyHistory(document, diff_ids.size());
  return Dump(document);
}

}  // namespace sluice::p2p
