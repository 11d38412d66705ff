#include "p2p/registry/manifest.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/http/text.h"
#include "p2p/registry/lenient_text.h"
#include "p2p/registry/platform_match.h"
#include "p2p/registry/seek_table.h"

namespace sluice::p2p {
namespace {

using nlohmann::json;

constexpr size_t kPlatformPartBytesMax = 64;
constexpr uint64_t kStoredMoreMax = 1 << 20;

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

bool IsBootstrap(const Descriptor& layer) {
  return layer.media_type == media_type::kErofs || layer.media_type == media_type::kErofsZstd ||
         layer.media_type == media_type::kErofsLayerV1;
}

bool IsDevice(const Descriptor& layer) {
  return layer.Annotation(annotation::kErofsRole) == annotation::kErofsRoleDevice;
}

bool IsCompressed(const Descriptor& layer) {
  return layer.media_type.ends_with(media_type::kZstdSuffix);
}

std::string AnnotationName(std::string_view name) {
  return absl::StrCat("annotation ", Abs(name));
}

std::optional<uint64_t> ReadNumber(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

absl::StatusOr<uint64_t> ReadNumberAnnotation(const Descriptor& layer, std::string_view name,
                                              uint64_t absent) {
  const std::string_view text = layer.Annotation(name);
  if (text.empty()) return absent;
  const std::optional<uint64_t> number = ReadNumber(text);
  if (!number) return Invalid(AnnotationName(name), absl::StrCat(Quoted(text), " is not a number of bytes"));
  return *number;
}

// The plain size of a layer; what a descriptor of a compressed one says is how much is stored.
absl::StatusOr<uint64_t> ReadPlainSize(const Descriptor& layer) {
  const bool compressed = IsCompressed(layer);
  auto size = ReadNumberAnnotation(layer, annotation::kBlobSize, compressed ? 0 : layer.size);
  if (!size.ok()) return size;
  if (!compressed && *size != layer.size) {
    return Invalid(AnnotationName(annotation::kBlobSize),
                   absl::StrCat(*size, " contradicts the descriptor's size ", layer.size));
  }
  if (compressed && layer.Annotation(annotation::kBlobSize).empty()) {
    return Invalid(AnnotationName(annotation::kBlobSize), "it is missing; the layer is compressed");
  }
  if (*size == 0 || layer.size == 0) return absl::InvalidArgumentError("it is empty");
  if (*size > kBlobSizeMax) {
    return Invalid(AnnotationName(annotation::kBlobSize),
                   absl::StrCat(*size, " is more than ", kBlobSizeMax));
  }
  return size;
}

absl::StatusOr<Digest> ReadPlainDigest(const Descriptor& layer) {
  const std::string_view text = layer.Annotation(annotation::kUncompressedDigest);
  const std::string name = AnnotationName(annotation::kUncompressedDigest);
  if (text.empty() && IsCompressed(layer)) return Invalid(name, "it is missing; the layer is compressed");
  if (text.empty()) return layer.digest;
  absl::StatusOr<Digest> digest = Digest::Parse(text);
  if (!digest.ok()) return Invalid(name, digest.status().message());
  if (!IsCompressed(layer) && *digest != layer.digest) {
    return Invalid(name, "it is not the descriptor's digest, and the layer is not compressed");
  }
  return digest;
}

// Holds the table's place against what is stored and what must stand in it.
absl::Status CheckSeekTable(const SeekTablePlace& place, uint64_t stored_size, uint32_t chunk_count) {
  const ByteRange& range = place.range;
  if (range.length < SeekTable::BytesFor(chunk_count) || range.length > SeekTable::BytesMaxFor(chunk_count)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a table of ", chunk_count, " frames does not have ", range.length, " bytes"));
  }
  if (range.offset == 0 || range.length > stored_size || range.offset != stored_size - range.length) {
    return absl::InvalidArgumentError(absl::StrCat(range.length, " bytes at ", range.offset,
                                                   " are not the last ones of ", stored_size,
                                                   ", after the frames"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SeekTablePlace> ParseSeekTablePlace(std::string_view text) {
  const size_t first = text.find(':');
  const size_t second = first == std::string_view::npos ? first : text.find(':', first + 1);
  if (second == std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is not OFFSET:SIZE:sha256:HEX"));
  }
  const std::optional<uint64_t> offset = ReadNumber(text.substr(0, first));
  const std::optional<uint64_t> size = ReadNumber(text.substr(first + 1, second - first - 1));
  if (!offset || !size) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is not OFFSET:SIZE:sha256:HEX"));
  }
  const absl::StatusOr<Digest> digest = Digest::Parse(text.substr(second + 1));
  if (!digest.ok()) return digest.status();
  return SeekTablePlace{{*offset, *size}, *digest};
}

// How a compressed layer is stored. `spec` says what it is.
absl::StatusOr<StoredForm> ReadStoredForm(const Descriptor& layer, const BlobSpec& spec) {
  StoredForm stored{layer.digest, layer.size, std::nullopt};
  // A little is added by frames and their table: more than that is no compression of the blob.
  if (const uint64_t max = spec.size + spec.size / 16 + kStoredMoreMax; layer.size > max) {
    return absl::InvalidArgumentError(
        absl::StrCat(layer.size, " stored bytes are no compression of ", spec.size, " plain ones"));
  }
  const std::string_view text = layer.Annotation(annotation::kSeekTable);
  if (text.empty()) return stored;
  const absl::StatusOr<SeekTablePlace> place = ParseSeekTablePlace(text);
  absl::Status valid = place.status();
  if (valid.ok()) {
    valid = CheckSeekTable(*place, layer.size, ChunkGeometry(spec.size, spec.chunk_size).chunk_count());
  }
  if (!valid.ok()) return Invalid(AnnotationName(annotation::kSeekTable), valid.message());
  stored.seek_table = *place;
  return stored;
}

// A layer's blob as its descriptor says it, bootstrap or device.
absl::StatusOr<BlobSpec> ReadBlobSpec(const Descriptor& layer, const BlobOrigin& origin) {
  const absl::StatusOr<Digest> digest = ReadPlainDigest(layer);
  const absl::StatusOr<uint64_t> size = ReadPlainSize(layer);
  if (!digest.ok()) return digest.status();
  if (!size.ok()) return size.status();
  BlobSpec spec{.digest = *digest, .size = *size, .root = std::nullopt, .origins = {origin}};
  auto chunk_size =
      ReadNumberAnnotation(layer, annotation::kBlobChunkSize, ChunkGeometry::ChunkSizeFor(spec.size));
  if (!chunk_size.ok()) return chunk_size.status();
  if (*chunk_size > kChunkSizeMax) {
    return Invalid(AnnotationName(annotation::kBlobChunkSize),
                   absl::StrCat(*chunk_size, " is more than ", kChunkSizeMax));
  }
  spec.chunk_size = static_cast<uint32_t>(*chunk_size);
  if (absl::Status valid = ChunkGeometry::Validate(spec.size, spec.chunk_size); !valid.ok()) return valid;
  if (IsCompressed(layer)) {
    absl::StatusOr<StoredForm> stored = ReadStoredForm(layer, spec);
    if (!stored.ok()) return stored.status();
    spec.stored.emplace(origin, *std::move(stored));
  } else if (!layer.Annotation(annotation::kSeekTable).empty()) {
    return Invalid(AnnotationName(annotation::kSeekTable), "the layer is not compressed");
  }
  return spec;
}

absl::StatusOr<BlobSpec> ReadBootstrap(const Descriptor& layer, const BlobOrigin& origin) {
  if (IsDevice(layer)) {
    return Invalid(AnnotationName(annotation::kErofsRole),
                   absl::StrCat("a layer of type ", layer.media_type, " is a bootstrap, and no device"));
  }
  return ReadBlobSpec(layer, origin);
}

absl::StatusOr<BlobSpec> ReadDevice(const Descriptor& layer, const BlobOrigin& origin) {
  absl::StatusOr<BlobSpec> spec = ReadBlobSpec(layer, origin);
  if (!spec.ok()) return spec;
  if (const std::string_view text = layer.Annotation(annotation::kBlobRoot); !text.empty()) {
    absl::StatusOr<Digest> root = Digest::ParseHex(text);
    if (!root.ok()) return Invalid(AnnotationName(annotation::kBlobRoot), root.status().message());
    spec->root = *root;
  }
  if (!IsCompressed(layer)) return spec;
  // Its chunks can't be proven but by their root, and can't be found but by the table.
  if (!spec->root)
    return Invalid(AnnotationName(annotation::kBlobRoot), "it is missing; the layer is compressed");
  if (const uint32_t chunks = ChunkGeometry(spec->size, spec->chunk_size).chunk_count();
      chunks > 1 && !spec->StoredAt(origin)->seek_table) {
    return Invalid(AnnotationName(annotation::kSeekTable),
                   absl::StrCat("it is missing; the layer is compressed and has ", chunks, " chunks"));
  }
  return spec;
}

// Why `device` can't be one beside those of `image`.
absl::Status CheckBeside(const LazyImage& image, const BlobSpec& device) {
  if (image.blobs.size() == kDevicesMax) {
    return absl::InvalidArgumentError(absl::StrCat("it is one device too many: ", kDevicesMax, " are taken"));
  }
  for (const BlobSpec& other : image.blobs) {
    if (other.digest != device.digest) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the same blob is a device twice", other.root == device.root ? "" : ", with two roots"));
  }
  return absl::OkStatus();
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

absl::StatusOr<std::optional<LazyImage>> FindLazyImage(const ImageManifest& manifest,
                                                       const BlobOrigin& origin) {
  LazyImage image;
  size_t bootstrap_count = 0;
  std::optional<size_t> other;  // the first layer that is neither
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    const Descriptor& layer = manifest.layers[i];
    const bool is_bootstrap = IsBootstrap(layer);
    if (!is_bootstrap && !IsDevice(layer)) {
      if (!other) other = i;
      continue;
    }
    absl::StatusOr<BlobSpec> spec = is_bootstrap ? ReadBootstrap(layer, origin) : ReadDevice(layer, origin);
    absl::Status valid = spec.status();
    if (valid.ok() && !is_bootstrap) valid = CheckBeside(image, *spec);
    if (!valid.ok()) return Invalid(absl::StrCat("layers[", i, "]"), valid.message());
    if (is_bootstrap) {
      image.bootstrap = *std::move(spec);
      ++bootstrap_count;
    } else {
      image.blobs.push_back(*std::move(spec));
    }
  }
  if (bootstrap_count == 0 && image.blobs.empty()) return std::nullopt;
  if (bootstrap_count != 1) {
    return Invalid("layers",
                   absl::StrCat("it has ", bootstrap_count, " EROFS bootstraps; a lazy image has one"));
  }
  if (other) {
    return Invalid(absl::StrCat("layers[", *other, "]"),
                   absl::StrCat("a layer of type ", Quoted(manifest.layers[*other].media_type),
                                " that is neither bootstrap nor device would be missing from the mount"));
  }
  return image;
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
