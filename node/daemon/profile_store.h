#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/digest.h"
#include "p2p/cluster/profile_codec.h"

namespace sluice {

// Profiles of images: a file for each manifest, in a folder of the data directory. They are advice: what a
// crash or a stranger damages is left out, and made anew.
//
// Thread-safe. Blocks on disk.
class ProfileStore {
 public:
  static constexpr size_t kProfilesMax = 4096;

  // The folder is made when it is needed.
  explicit ProfileStore(std::string folder) : folder_(std::move(folder)) {}

  // Errors: NotFound (also if it is damaged).
  absl::StatusOr<p2p::KeptProfile> Get(const Digest& manifest) const;
  // Adds a start to what is kept, and gives that; false if it was in it already. Beyond kProfilesMax the one
  // that was written longest ago goes. Errors: Unavailable.
  absl::StatusOr<bool> Merge(const p2p::StartRecord& record);
  // Keeps it in place of one that is made of fewer starts. Errors: Unavailable.
  absl::Status Offer(const p2p::KeptProfile& profile);
  // Keeps it in place of any other. Errors: Unavailable.
  absl::Status Replace(const p2p::KeptProfile& profile);

 private:
  std::string PathOf(const Digest& manifest) const;
  absl::Status Put(const p2p::KeptProfile& profile);
  void RemoveOldest();

  const std::string folder_;
  std::mutex mutex_;             // serialises changes
  size_t count_ = kProfilesMax;  // files at most; as long as they were not counted, enough
};

}  // namespace sluice
