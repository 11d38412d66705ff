#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/http/profile_route.h"
#include "node/blob.h"
#include "node/blob_cache.h"
#include "node/chunk_set.h"
#include "node/daemon/attached_profiles.h"
#include "node/daemon/mount_observer.h"
#include "node/daemon/profile_store.h"
#include "node/daemon/start_reports.h"
#include "node/executor.h"
#include "node/image_profile.h"
#include "node/peer_trust.h"
#include "node/profile_replay.h"
#include "node/telemetry.h"
#include "p2p/cluster/profile_exchange.h"

namespace sluice {

// Records what starts of images touch, merges it with earlier starts, tells the image's ranks among the other
// nodes, and brings it in ahead of the next start, here or there.
//
// A start is recorded from the first touch after the mount on. What absent chunks are read is known from
// their readers' waits; what present ones, from the keeper, as far as it sees reads. So for a bounded time
// reads of whole blobs don't pass unasked. A start that is made in order to be recorded is recorded and
// watched for as long as it is mounted.
//
// Thread-safe.
class StartProfiles final : public MountObserver, public api::ProfileAnswers {
 public:
  // What is read while it is present is asked of the keeper so often.
  static constexpr Duration kLookInterval = std::chrono::milliseconds(100);
  // Reads of whole blobs are watched for so long after the mount, at most.
  static constexpr Duration kWatchMax = std::chrono::seconds(60);
  // Nobody starts after so long.
  static constexpr Duration kFirstTouchMax = std::chrono::minutes(10);
  // A whole image that so many starts are known of is not watched again.
  static constexpr uint32_t kStartsEnough = 3;
  static constexpr int kTakenAtOnceMax = 64;
  // Nobody waits longer for a start to be kept.
  static constexpr Duration kKeepMax = std::chrono::seconds(5);

  struct Parts {
    const Clock& clock;
    Executor& core;  // serial
    Executor& io;    // pool
    BlobCache& cache;
    ProfileStore& profiles;
    const p2p::ProfileExchange* exchange;  // null on a node without members
    AttachedProfiles* attached;            // those that registries have; may be null
    Telemetry& telemetry;
    StartReports& reports;
    // Adds the blob's chunks that were read while they were present, since it was called last; false if
    // nobody can tell of this blob.
    std::function<bool(const BlobKey&, ChunkSet&)> take_touched;
    // All of the blob is present, and it may be read unasked from now on if it is durable and proven, too.
    std::function<void(const std::shared_ptr<Blob>&)> unwatched;
    // Whether the keeper sees all reads of what is present, but those that pass unasked: fanotify.
    std::function<bool()> sees_present_reads;
    // Whether what is absent is missing: not where the kernel may have the only copies of it (cachefiles).
    std::function<bool()> lacks_what_is_absent;
    // Whether the image's repository gives it to everybody.
    std::function<bool(const std::string& reference, const Digest& manifest)> is_public;
    // Told of what a start has read that was watched since its mount. Null: nobody is.
    std::function<void(const std::vector<std::shared_ptr<Blob>>&, const ImageProfile& read)> on_watched =
        nullptr;
  };
  struct Options {
    bool replay = true;
    Duration record = std::chrono::seconds(60);  // from the first touch on; 0: nothing is recorded
    ProfileReplay::Limits limits = {};
    std::string recorder = {};               // this node's name
    PeerTrust trust = PeerTrust::kUnproven;  // whether other nodes have shown that they are members
  };

  // The parts outlive this and what it has posted.
  StartProfiles(Parts parts, Options options);
  ~StartProfiles() override;
  // Keeps what was recorded so far; nothing more is. Idempotent.
  void Stop();

  // Drained, nothing is brought in ahead of starts; of those that go on now nothing more is afterwards
  // either.
  void SetDrain(api::DrainState state);

  // What starts of the image read, as this node or its ranks know it; nothing if none does. Asks the ranks
  // first, and blocks for ProfileExchange::kTimeout: not for the core loop, the I/O pool or the client's
  // thread.
  std::optional<ImageProfile> Find(const Digest& manifest);

  // Blocks until starts of the image whose mounts have ended are kept, at most until then, or kKeepMax.
  void AwaitEnded(const Digest& manifest, Instant deadline);

  void Resolved(const BlobOrigin& origin, const Digest& manifest) override;
  void Preparing(const std::string& mount_point, const std::string& reference, const Digest& manifest,
                 const std::vector<std::shared_ptr<Blob>>& blobs, api::StartRecording recording) override;
  void Unmounted(const std::string& mount_point) override;
  void Demanded(const BlobKey& key, ByteRange range) override;
  bool Watches(const BlobKey& key) override;

  void Give(const Digest& manifest, OnProfile done) override;
  void Take(std::string record, const ProvenNames& proven, OnTaken done) override;

 private:
  class Core;
  const std::shared_ptr<Core> core_;
};

}  // namespace sluice
