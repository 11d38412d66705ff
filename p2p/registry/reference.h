#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"

namespace sluice::p2p {

inline constexpr size_t kReferenceBytesMax = 512;  // of a whole reference as typed
inline constexpr size_t kRepositoryBytesMax =
    255;  // registry and repository together, as registries limit it
inline constexpr std::string_view kRegistryDefault = "docker.io";
inline constexpr std::string_view kTagDefault = "latest";

// The name of an image: [host[:port]/]repository[:tag][@sha256:<64 hex>].
// Source: OCI distribution specification, "Pulling manifests" (<name>, <reference>); the defaults are
// docker's.
struct ImageReference {
  BlobOrigin origin;             // registry in lower case
  std::string tag;               // empty if the reference has a digest and no tag
  std::optional<Digest> digest;  // of the manifest; wins over the tag

  // Parses strictly. What stands before the first '/' is the registry if it has a '.' or a ':' or is
  // "localhost"; else the registry is docker.io, and a repository of one component is put under "library/".
  // Neither tag nor digest means the tag "latest".
  // Errors: InvalidArgument, with the text quoted and the rule that it breaks.
  static absl::StatusOr<ImageReference> Parse(std::string_view text);

  // What stands after "/manifests/" in a registry's URL: the digest if there is one, else the tag.
  std::string ManifestName() const;
  // The full form, with the defaults written out; Parse() gives the same reference back.
  std::string ToString() const;

  friend auto operator<=>(const ImageReference&, const ImageReference&) = default;
};

}  // namespace sluice::p2p
