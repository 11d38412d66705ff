#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/daemon/image_resolver.h"
#include "node/daemon/mount_table.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "ondemand/fanotify_door.h"
#include "ondemand/read_ticket.h"

namespace sluice {

// Mounts images, finds them again after a restart, fills them, and answers the kernel's reads of them.
//
// Thread-safe. Mount, Unmount and Recover block on registry, disk and keeper: not for the core loop. The
// order of life: construct, Recover(store's blobs), OpenDoor, then the rest; Stop before the parts go.
class Mounter final : public api::MountBackend {
 public:
  struct Parts {
    Clock& clock;
    Executor& core;
    index::DiskStore& store;
    BlobCache& cache;
    ChunkVerifier& verifier;
    ImageResolver& resolver;
    Telemetry& telemetry;
  };
  struct Options {
    bool fill_by_default = false;
    Duration bootstrap_timeout = std::chrono::minutes(5);
    Duration fill_retry_first = std::chrono::seconds(1);
    Duration fill_retry_max = std::chrono::seconds(60);
  };

  Mounter(Parts parts, Options options, MountTable table);
  ~Mounter() override;

  // Registers the blobs of the mounts in the table, so that reads that wait since before can be answered.
  // Errors: those of DiskStore::Open.
  absl::Status Recover();

  // Opens the kernel's door and puts what the table says in accord with the mounts that there are: a mount
  // that is gone leaves the table; one that nothing watches any more is taken down, for its holes would read
  // as zeros. Errors: those of FanotifyDoor::Start. Without a door, Mount gives FailedPrecondition.
  absl::Status OpenDoor(ondemand::FanotifyDoorOptions options);

  // Lets go of the door; mounts stay. Idempotent.
  void Stop();

  // What the store calls when a blob was completed or a chunk taken back.
  void OnBlobComplete(const std::shared_ptr<Blob>& blob);
  void OnBlobRevoked(const Blob& blob);

  // Zeros without a door.
  ondemand::KeeperCounters keeper_counters() const;
  size_t mount_count() const;

  absl::StatusOr<api::MountInfo> Mount(const api::MountRequest& request) override;
  absl::Status Unmount(const std::string& mount_point) override;
  absl::StatusOr<std::vector<api::MountInfo>> ListMounts() override;
  absl::StatusOr<std::vector<api::FillProgress>> GetFillProgress(const std::string& mount_point) override;

 private:
  // What was served of one mounted blob through the daemon, and how its fill goes.
  struct BlobUse {
    uint32_t mounts = 0;  // that use it
    std::shared_ptr<Blob> blob;
    api::ServedTotals served;
    uint64_t errors = 0;
    std::string last_error;
    api::FillState fill = api::FillState::kIdle;
    std::string fill_error;
  };

  class Reservation;

  void OnTicket(ondemand::ReadTicket ticket);
  void NoteServed(const Digest& digest, uint64_t length, const absl::StatusOr<ReadResult>& result);

  absl::StatusOr<std::string> PrepareBootstrap(const BlobSpec& spec, const std::vector<BlobSpec>& blobs,
                                               Instant deadline);
  absl::Status Guard(const BlobSpec& spec);
  void Unguard(const std::vector<BlobSpec>& specs);
  absl::Status MountPrepared(const MountEntry& entry, const std::string& bootstrap_path);
  absl::Status ReconcileMounts();
  void Forget(const std::string& mount_point);
  void StartFill(const Digest& digest, Duration retry_after);
  api::MountInfo Describe(const MountEntry& entry) const;

  // Constant after construction.
  const Parts parts_;
  const Options options_;

  // Serialises what is told to the door about blobs, so that a blob is not let go while another mount takes
  // it up.
  std::mutex guard_mutex_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  MountTable table_;
  absl::flat_hash_map<Digest, BlobUse> uses_;
  absl::flat_hash_map<std::string, Blob::Lease> bootstraps_;  // by mount point
  std::set<std::string> busy_;                                // mount points under work
  std::shared_ptr<ondemand::FanotifyDoor> door_;              // null without one
  bool stopped_ = false;
};

}  // namespace sluice
