#include "node/image/reusable_blobs.h"

#include "absl/strings/str_cat.h"
#include "node/image/data_blob_writer.h"
#include "p2p/registry/lazy_image.h"

namespace sluice {
namespace {

bool IsCompressed(const p2p::Descriptor& blob) {
  return blob.media_type == p2p::media_type::kOctetStreamZstd;
}

// Compressed, or plain because that made it no smaller.
bool WasToBeCompressed(const p2p::Descriptor& blob) {
  return IsCompressed(blob) || !blob.Annotation(p2p::annotation::kZstd).empty();
}

}  // namespace

void ReusableBlobs::Add(const BlobOrigin& origin, const p2p::ImageManifest& manifest) {
  const absl::StatusOr<std::optional<p2p::LazyImage>> lazy = p2p::FindLazyImage(manifest, origin);
  if (!lazy.ok() || !*lazy) return;
  for (const p2p::Descriptor& layer : manifest.layers) {
    if (layer.Annotation(p2p::annotation::kErofsRole) != p2p::annotation::kErofsRoleDevice) continue;
    const absl::StatusOr<Digest> plain =
        IsCompressed(layer) ? Digest::Parse(layer.Annotation(p2p::annotation::kUncompressedDigest))
                            : layer.digest;
    if (plain.ok()) found_[*plain].push_back({layer, origin});
  }
}

std::vector<ReusableBlobs::Found> ReusableBlobs::Find(const p2p::Recipe& recipe,
                                                      Compression::Kind kind) const {
  const auto found = found_.find(recipe.blob);
  std::vector<Found> suiting;
  if (found == found_.end()) return suiting;
  for (const Found& one : found->second) {
    const p2p::Descriptor& blob = one.descriptor;
    const bool suits =
        blob.Annotation(p2p::annotation::kBlobLayout) == absl::StrCat(DataBlobWriter::kLayout) &&
        blob.Annotation(p2p::annotation::kBlobRoot) == recipe.root.Hex() &&
        blob.Annotation(p2p::annotation::kBlobChunkSize) == absl::StrCat(recipe.chunk_size) &&
        (kind == Compression::Kind::kNone ? !IsCompressed(blob) : WasToBeCompressed(blob));
    if (suits) suiting.push_back(one);
  }
  return suiting;
}

}  // namespace sluice
