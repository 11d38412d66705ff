#pragma once

#include <cstddef>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "node/digest.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/registry_client.h"

namespace sluice::p2p {

inline constexpr size_t kIndexDepthMax = 8;       // of indexes in indexes, the first counted
inline constexpr size_t kIndexDocumentsMax = 64;  // looked into before an image is chosen
inline constexpr size_t kPlatformsInMessageMax = 16;

// Where what an index names is taken from. Both block; their errors end the choice, but for NotFound,
// InvalidArgument and Unimplemented, which leave out the entry.
struct ImageDocuments {
  absl::FunctionRef<absl::StatusOr<FetchedManifest>(const Digest&)> manifest;
  // The bytes of an image configuration.
  absl::FunctionRef<absl::StatusOr<std::string>(const Descriptor&)> config;
};

struct ChosenImage {
  FetchedManifest fetched;  // the image's own manifest, as bytes
  ImageManifest manifest;
};

// The image that `root` is, whatever its platform, or of an index the one that suits `wanted` best (see
// PlatformRank; `wanted.os_features` is what the asker can use); of equals an entry that names its platform,
// then the first. An entry may be an index again. What an entry without a platform is for is looked up in
// its configuration; entries that are neither image nor index, and artifacts, are passed over.
// Errors: NotFound, which lists the platforms that there are; InvalidArgument (a document that is not what
// its entry says, or none; too deep); ResourceExhausted (over kIndexDocumentsMax); those of `documents`.
absl::StatusOr<ChosenImage> ChooseImage(FetchedManifest root, const Platform& wanted,
                                        const ImageDocuments& documents);

}  // namespace sluice::p2p
