#include "node/daemon/profile_admin.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "node/geometry.h"
#include "p2p/registry/platform_match.h"

namespace sluice {
namespace {

absl::Status NotOfTheImage(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("the profile does not suit the image: ", what));
}

// What is told names no node: it may be given to anybody who may have the image.
api::ProfileReport Report(std::string reference, std::vector<BlobSpec> blobs, p2p::KeptProfile kept) {
  kept.recorders.clear();
  std::string document = p2p::FormatKept(kept);
  return {std::move(reference),    kept.manifest,    kept.access == p2p::ImageAccess::kPublic,
          std::move(kept.profile), std::move(blobs), std::move(document)};
}

}  // namespace

absl::StatusOr<p2p::KeptProfile> CheckedProfile(const std::string& document, const Digest& manifest,
                                                const std::vector<BlobSpec>& blobs) {
  if (document.size() > p2p::kProfileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the profile has ", document.size(), " bytes; at most ",
                                                   p2p::kProfileBytesMax, " are taken"));
  }
  std::optional<p2p::KeptProfile> kept = p2p::ParseKept(document);
  if (!kept) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile is malformed, of another version, or beyond the bounds (",
                     ImageProfile::kSpansMax, " spans, ", ImageProfile::kBlobsMax,
                     " blobs); \"sluice image profile REF --export FILE\" writes one that is right"));
  }
  if (kept->manifest != manifest) {
    return NotOfTheImage(absl::StrCat("it is of the manifest ", kept->manifest.ToString(),
                                      ", the image's is ", manifest.ToString()));
  }
  for (const ProfileSpan& span : kept->profile.spans) {
    if (span.blob >= blobs.size()) {
      return NotOfTheImage(
          absl::StrCat("it names blob ", span.blob, " (from 0), and the image has ", blobs.size()));
    }
    const ChunkGeometry geometry(blobs[span.blob].size, blobs[span.blob].chunk_size);
    if (span.chunks.end().value() > geometry.chunk_count()) {
      return NotOfTheImage(absl::StrCat("it names chunk ", span.chunks.end().value() - 1, " of blob ",
                                        span.blob, " (from 0), which has ", geometry.chunk_count()));
    }
  }
  return *std::move(kept);
}

absl::StatusOr<api::ProfileReport> ProfileAdmin::GetProfile(const std::string& image, Instant deadline) {
  std::string reference;
  std::vector<BlobSpec> blobs;
  absl::StatusOr<Digest> manifest = Digest::Parse(image);
  if (!manifest.ok()) {
    absl::StatusOr<ResolvedImage> resolved = parts_.preparer.Resolve(image, p2p::ThisCpu());
    if (!resolved.ok()) return resolved.status();
    reference = resolved->reference.ToString();
    manifest = resolved->manifest;
    blobs = std::move(resolved->image.blobs);
  }
  parts_.await_ended(*manifest, deadline);
  absl::StatusOr<p2p::KeptProfile> kept = parts_.profiles.Get(*manifest);
  if (kept.ok()) return Report(std::move(reference), std::move(blobs), *std::move(kept));
  return absl::NotFoundError(absl::StrCat(
      "this node knows of no start of ", manifest->ToString(),
      "; mount it and run what is run from it, or \"sluice image profile record REF -- COMMAND\" records a "
      "start, or \"sluice image profile REF --import FILE\" takes another node's"));
}

absl::StatusOr<api::ProfileReport> ProfileAdmin::ImportProfile(const std::string& reference,
                                                               const std::string& document) {
  absl::StatusOr<ResolvedImage> resolved = parts_.preparer.Resolve(reference, p2p::ThisCpu());
  if (!resolved.ok()) return resolved.status();
  std::string full = resolved->reference.ToString();
  absl::StatusOr<p2p::KeptProfile> kept = CheckedProfile(document, resolved->manifest, resolved->image.blobs);
  if (!kept.ok()) return kept.status();
  // What the document says of that is its author's.
  kept->access =
      parts_.is_public(full, resolved->manifest) ? p2p::ImageAccess::kPublic : p2p::ImageAccess::kPrivate;
  kept->recorders.clear();
  if (const absl::Status replaced = parts_.profiles.Replace(*kept); !replaced.ok()) return replaced;
  return Report(std::move(full), std::move(resolved->image.blobs), *std::move(kept));
}

}  // namespace sluice
