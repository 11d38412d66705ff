#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "p2p/registry/reference.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// Manifests as they were fetched last, by tag and by digest, so that a complete image can be mounted while
// its registry can't be reached, and other nodes can be given them. A file per reference, in a folder of the
// data directory; the body must match its digest.
//
// Thread-safe. Blocks on disk.
class ManifestCache {
 public:
  static constexpr size_t kManifestsMax = 4096;

  // The folder is made when it is needed.
  explicit ManifestCache(std::string folder) : folder_(std::move(folder)) {}

  struct Kept {
    p2p::FetchedManifest manifest;
    int64_t public_at_ms = 0;  // if it is public: when that was found out
  };
  // Replaces what was there; beyond kManifestsMax the oldest goes. What is public was found to be so at
  // `public_at_ms` of the wall clock, milliseconds since 1970; 0: as long ago as the manifest says. Errors:
  // Unavailable.
  absl::Status Put(const p2p::ImageReference& reference, const p2p::FetchedManifest& manifest,
                   int64_t public_at_ms = 0);
  // Errors: NotFound (also what is a copy of another moment, put back); DataLoss (damaged).
  absl::StatusOr<p2p::FetchedManifest> Get(const p2p::ImageReference& reference) const;
  // The same, with when it was found public.
  absl::StatusOr<Kept> Find(const p2p::ImageReference& reference) const;

 private:
  std::string PathOf(const p2p::ImageReference& reference) const;
  void RemoveOldest();

  const std::string folder_;
  // How many files there are at most, so that the folder need not be listed for each; as long as it was not
  // listed, enough.
  std::atomic<size_t> count_{kManifestsMax};
};

}  // namespace sluice
