#include "p2p/registry/lazy_image.h"

#include <charconv>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "node/geometry.h"
#include "p2p/http/text.h"
#include "p2p/registry/seek_table.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kStoredMoreMax = 1 << 20;

absl::Status Invalid(absl::string_view where, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", why));
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

}  // namespace

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

}  // namespace sluice::p2p
