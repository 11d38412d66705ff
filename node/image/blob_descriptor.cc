#include "node/image/blob_descriptor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "node/image/data_blob_writer.h"
#include "p2p/recipe/sha256.h"

namespace sluice {

p2p::Descriptor Describe(std::string_view type, const Digest& digest, uint64_t size) {
  return {.media_type = std::string(type), .digest = digest, .size = size, .annotations = {}};
}

void Annotate(p2p::Descriptor& descriptor, std::string_view name, std::string value) {
  descriptor.annotations[std::string(name)] = std::move(value);
}

p2p::Descriptor DescribeBlob(const p2p::Recipe& recipe, const std::optional<Digest>& source_diff_id) {
  p2p::Descriptor descriptor = Describe(p2p::media_type::kOctetStream, recipe.blob, recipe.size);
  Annotate(descriptor, p2p::annotation::kErofsRole, std::string(p2p::annotation::kErofsRoleDevice));
  Annotate(descriptor, p2p::annotation::kBlobRoot, recipe.root.Hex());
  Annotate(descriptor, p2p::annotation::kBlobChunkSize, absl::StrCat(recipe.chunk_size));
  Annotate(descriptor, p2p::annotation::kBlobSize, absl::StrCat(recipe.size));
  Annotate(descriptor, p2p::annotation::kBlobLayout, absl::StrCat(DataBlobWriter::kLayout));
  if (source_diff_id) Annotate(descriptor, p2p::annotation::kSourceDiffId, source_diff_id->ToString());
  return descriptor;
}

void DescribeCompressed(p2p::Descriptor& descriptor, const Digest& digest, uint64_t size) {
  Annotate(descriptor, p2p::annotation::kUncompressedDigest, descriptor.digest.ToString());
  descriptor.media_type.append(p2p::media_type::kZstdSuffix);
  descriptor.digest = digest;
  descriptor.size = size;
}

std::string PlaceOfSeekTable(const CompressedFile& file, const std::string& table) {
  return absl::StrCat(file.size - table.size(), ":", table.size(), ":", p2p::Sha256::Of(table).ToString());
}

}  // namespace sluice
