#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/daemon/asio_executor.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/image_counters.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// Asks the programs of a folder whether an image may be had, as containerd asks its image verifiers: each is
// called with -name, -digest and -stdin-media-type, reads the manifest's descriptor as JSON, and lets the
// image pass by exit code 0; what it prints is the reason. All must let it pass. None there: everything
// passes. Who has not answered in time, or can't be run, refuses. What they say of a name and digest holds
// for kHoldsFor; what an index names that has passed has passed with it. Source: containerd's
// docs/image-verification.md.
//
// Thread-safe. Held by a shared pointer; stopped before the last one is let go of.
class ImagePolicy : public std::enable_shared_from_this<ImagePolicy> {
 public:
  static constexpr Duration kHoldsFor = std::chrono::seconds(60);
  static constexpr size_t kProgramsMax = 32;  // beyond, every image is refused
  static constexpr int kImagesAtOnce = 4;     // that are asked about
  static constexpr size_t kWaitingMax = 256;  // images that wait for an answer; beyond: ResourceExhausted
  static constexpr size_t kKeptMax = 4096;    // answers; beyond, all are forgotten

  struct Options {
    std::string folder;
    Duration timeout = std::chrono::seconds(10);  // for each program
  };
  // Errors: InvalidArgument (no such folder, or others than root and this user may write to it).
  static absl::StatusOr<std::shared_ptr<ImagePolicy>> Open(Options options, const Clock& clock,
                                                           ImageCounters& counters);
  ~ImagePolicy();
  // Ends the programs that run, and answers those who wait with Cancelled. Idempotent.
  void Stop();

  // Whether the image may be had whose manifest or index this is. `name` as it was asked for. Errors:
  // PermissionDenied (refused), DeadlineExceeded, Unavailable (they could not be asked), ResourceExhausted,
  // Cancelled; they name the program and what it said. `done` is called exactly once, in the call or on a
  // thread of this one's.
  using Done = absl::AnyInvocable<void(absl::Status) &&>;
  void Ask(const BlobOrigin& origin, const std::string& name, const p2p::FetchedManifest& manifest,
           Done done);
  // The same; blocks. Not on a thread of this one's.
  absl::Status Ask(const BlobOrigin& origin, const std::string& name, const p2p::FetchedManifest& manifest);

 private:
  struct Kept {
    absl::Status answer;
    Instant until;
  };
  using Waiters = std::vector<Done>;

  ImagePolicy(Options options, const Clock& clock, ImageCounters& counters)
      : options_(std::move(options)), clock_(clock), counters_(counters) {}
  absl::StatusOr<std::vector<std::string>> Programs() const;
  absl::Status AskPrograms(const std::string& name, const p2p::FetchedManifest& manifest) const;
  absl::Status AskProgram(const std::string& path, const std::string& name,
                          const p2p::FetchedManifest& manifest) const;
  void End(const std::string& key, const BlobOrigin& origin, const p2p::FetchedManifest& manifest,
           const absl::Status& answer);
  // REQUIRES: mutex_ is held
  void Keep(const std::string& key, const absl::Status& answer);
  void Count(const absl::Status& answer) const;

  const Options options_;
  const Clock& clock_;
  ImageCounters& counters_;

  std::mutex mutex_;  // guards what follows
  std::map<std::string, Kept> kept_;
  std::map<std::string, Waiters> asking_;  // by what is kept
  bool stopped_ = false;
  std::atomic<bool> stopping_{false};  // the same, for who runs a program

  AsioExecutor programs_{"policy", kImagesAtOnce};
};

}  // namespace sluice
