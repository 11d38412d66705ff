#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "api/prefetch_backend.h"
#include "node/blob_cache.h"
#include "node/daemon/background_fill.h"
#include "node/daemon/hint_arrivals.h"
#include "node/daemon/hint_carrier.h"
#include "node/daemon/hint_journal.h"
#include "node/daemon/hint_login.h"
#include "node/daemon/hint_precision.h"
#include "node/daemon/image_preparer.h"
#include "node/daemon/range_fill.h"
#include "node/executor.h"
#include "node/image_profile.h"
#include "node/telemetry.h"

namespace sluice {

// Takes hints and brings in what they name, ahead of a mount. Once the image of a hint is known, nothing of
// it is evicted; once the hint is over, it holds nothing.
//
// A few hints fetch at once, those that go first by their priorities, the times they are needed by, and when
// they came; one that comes later and goes before them takes the place of the last. A hint whose latest try
// failed leaves its place to the next until a try of it succeeds.
//
// A hint ends with its ttl, and when its image can't be had; what may pass (a registry that is away, a full
// disk) is tried again: for `resolve_max` while the image is looked up, and from then on for as long as the
// hint stands.
//
// A hint for members that it names is told to them, and fetched here only if this node is one of them. What
// is to be told ends with the daemon: who could not be told by then failed.
//
// Credentials of a hint serve it alone: what they give is fetched apart from what this node's own give, they
// are forgotten when the hint is over, and the journal has none of them. After a restart such a hint has
// failed (Unauthenticated), and its id may be submitted anew, with credentials.
//
// What a client was told of a hint that it gave or cancelled outlives the daemon from then on, and a moment
// later the machine's power, too.
//
// Thread-safe.
class Prefetcher final : public api::PrefetchBackend {
 public:
  struct Parts {
    const Clock& clock;
    Executor& core;      // serial
    Executor& blocking;  // at least `resolving_max` threads, which may block on registry and disk
    BlobCache& cache;
    BackgroundFill& fills;
    ImagePreparer& preparer;
    Telemetry& telemetry;
    // Protects a blob from eviction; blocks on disk. Errors: ResourceExhausted, and those of DiskStore::Pin.
    std::function<absl::Status(const BlobKey&)> pin = nullptr;
    // What starts of an image read, here or on other nodes; nothing if none is known. May block for some
    // seconds, on the blocking threads. Null: nothing is known.
    std::function<std::optional<ImageProfile>(const Digest& manifest)> find_profile = nullptr;
    // Where hints outlive the daemon. Null: they don't.
    HintJournal* journal = nullptr;
    // Its threads may block on the disk. Not null where a journal or a pin is there.
    Executor* disk = nullptr;
    // Tells other nodes. Null: there are none, and a hint for some is refused (FailedPrecondition).
    HintCarrier* carrier = nullptr;
    // Turns the credentials of a hint into what asks by them. Not null where hints have some.
    LogIn log_in = nullptr;
    // Is told what hints have brought in, when they are over. Null: nobody is.
    HintPrecision* precision = nullptr;
    // Is told what hints wait for. Null: where it comes from is not known.
    HintArrivals* arrivals = nullptr;
  };
  struct Limits {
    size_t live_max = 1024;                         // hints that are not over; beyond: ResourceExhausted
    size_t live_of_scheduler_max = 256;             // of those, that one scheduler gave; beyond: the same
    Duration retry_full = std::chrono::seconds(5);  // what who is refused so is told to wait
    size_t ended_max = 1024;  // hints that are over and remembered; beyond, the oldest is forgotten
    int resolving_max = 8;    // images looked up at once
    // Of those, of one registry: one that does not answer holds up no other's.
    int resolving_of_registry_max = 2;
    Duration resolve_max = std::chrono::minutes(10);  // of one image, from its turn on
    size_t fetching_max = 8;  // hints that fetch at once; those that wait to try again do not count
    Duration ttl_default = std::chrono::hours(24);
    Duration tend_interval = std::chrono::seconds(1);  // hints end so much later than their ttl
    Duration retry_first = std::chrono::seconds(1);    // of looking an image up
    Duration retry_max = std::chrono::seconds(60);
    Duration save_delay = std::chrono::milliseconds(100);  // from a change until the journal has it
    Duration save_retry = std::chrono::seconds(5);         // after the disk has failed
    RangeFill::Limits ranges = {};
    uint64_t profile_bytes_max = 64 << 20;  // of what a profile says is needed
  };

  // The parts outlive this and the tasks that it has posted.
  Prefetcher(Parts parts, Limits limits);
  ~Prefetcher() override;
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // Takes on what an earlier daemon had taken, and its times with it. What has become of one that can't go on
  // (its image is forbidden now) its client learns as of any other. To be called before others call.
  void Restore(std::vector<JournalledHint> hints);

  // Lets go of all hints without ending them, so that the journal has them, and makes what blocks end soon.
  // Blocks on disk. Idempotent.
  void Stop();

  // Drained, it takes none (Unavailable, as a whole), and those that are not over have failed with that;
  // returns how many. No-op if it is so already. Does not block.
  size_t SetDrain(api::DrainState state);
  api::DrainState drain() const;

  absl::StatusOr<std::vector<api::SubmitResult>> SubmitHints(
      const std::vector<api::HintSpec>& hints) override;
  uint64_t Revision() override;
  absl::StatusOr<std::vector<api::HintStatus>> GetHints(const std::vector<std::string>& ids) override;
  std::vector<api::HintStatus> ListHints(const std::string& after, size_t count_max) override;
  absl::StatusOr<std::vector<api::HintStatus>> CancelHints(const std::vector<std::string>& ids) override;

 private:
  class Core;
  const std::shared_ptr<Core> core_;
};

}  // namespace sluice
