#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/fetch_handle.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/reference.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// An image's manifest as a registry has it, for one platform.
struct RemoteImage {
  p2p::ImageReference reference;
  Digest digest;  // of the manifest itself, not of an index that led to it
  p2p::ImageManifest manifest;
  std::string bytes;  // the manifest, as it came
};

// Follows an index, and indexes in it, to the image that suits `platform` best (see p2p::ChooseImage);
// whoever can use an EROFS bootstrap says so in its os_features. Errors: InvalidArgument (what came is no
// image), NotFound (no such image or platform), and those of RegistryClient; those that an index is to blame
// for name the reference. Blocks.
absl::StatusOr<RemoteImage> ResolveRemoteImage(p2p::RegistryClient& registry,
                                               const p2p::ImageReference& reference,
                                               const p2p::Platform& platform);

// Who looks on while a blob is downloaded. Called on the downloading thread and the client's.
struct DownloadWatcher {
  absl::AnyInvocable<void(uint64_t)> on_bytes;                         // so many are there
  absl::AnyInvocable<void(std::shared_ptr<FetchControl>)> on_request;  // one after another; to cancel it
};

// Downloads a blob to a new file, and holds it against its digest and size. Errors: DataLoss (the bytes are
// others), Cancelled (a request was), those of RegistryClient and of writing the file. Blocks.
absl::Status DownloadBlob(p2p::RegistryClient& registry, const BlobOrigin& origin,
                          const p2p::Descriptor& blob, const std::string& path, DownloadWatcher watcher);

}  // namespace sluice
