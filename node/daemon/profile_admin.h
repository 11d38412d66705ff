#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "node/blob.h"
#include "node/daemon/image_preparer.h"
#include "node/daemon/profile_store.h"
#include "node/digest.h"
#include "node/executor.h"
#include "p2p/cluster/profile_codec.h"

namespace sluice {

// What the API says of images' profiles, and takes in their place.
//
// Thread-safe; blocks on disk, and on the registry where a reference is to be resolved.
class ProfileAdmin final : public api::ProfileBackend {
 public:
  struct Parts {
    ImagePreparer& preparer;
    ProfileStore& profiles;
    // Blocks until starts of it whose mounts have ended are kept, at most until then.
    std::function<void(const Digest& manifest, Instant deadline)> await_ended;
    // Whether the image's repository gives it to everybody.
    std::function<bool(const std::string& reference, const Digest& manifest)> is_public;
  };
  // The parts outlive this.
  explicit ProfileAdmin(Parts parts) : parts_(std::move(parts)) {}

  absl::StatusOr<api::ProfileReport> GetProfile(const std::string& image, Instant deadline) override;
  absl::StatusOr<api::ProfileReport> ImportProfile(const std::string& reference,
                                                   const std::string& document) override;

 private:
  const Parts parts_;
};

// A profile's document as it stands, of that image. Errors: InvalidArgument, which says what is wrong: it is
// malformed, beyond the bounds of profiles, of another manifest, or names chunks that the image has not.
absl::StatusOr<p2p::KeptProfile> CheckedProfile(const std::string& document, const Digest& manifest,
                                                const std::vector<BlobSpec>& blobs);

}  // namespace sluice
