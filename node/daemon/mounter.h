#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/daemon/background_fill.h"
#include "node/daemon/image_preparer.h"
#include "node/daemon/image_resolver.h"
#include "node/daemon/mount_observer.h"
#include "node/daemon/mount_table.h"
#include "node/daemon/served_counts.h"
#include "node/daemon/start_reports.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "ondemand/door.h"
#include "ondemand/erofs_instance.h"
#include "ondemand/mount_point.h"
#include "ondemand/read_ticket.h"

namespace sluice {

// Mounts images, finds them again after a restart, fills them, and answers the kernel's reads of them.
//
// Thread-safe. Mount, Unmount and OpenDoor block on registry, disk and keeper: not for the core loop. The
// order of life: construct, Recover, OpenDoor, then the rest; Cancel and Stop before the parts go.
class Mounter final : public api::MountBackend {
 public:
  struct Parts {
    Clock& clock;
    index::DiskStore& store;
    BlobCache& cache;
    BackgroundFill& fills;
    ImageResolver& resolver;
    ImagePreparer& preparer;
    Telemetry& telemetry;
    StartReports& reports;
    MountObserver* observer = nullptr;
  };
  struct Options {
    bool fill_by_default = false;
    // Where the kernel has copies of its own: whether ours are kept when nothing is mounted from them any
    // more.
    bool keep_copy = true;
    Duration bootstrap_timeout = std::chrono::minutes(5);
  };

  Mounter(Parts parts, Options options, MountTable table);
  ~Mounter() override;

  // Registers the blobs of the mounts in the table, so that reads that wait since before can be answered. A
  // blob that can't be had is an alarm and an error to its readers, not to the node.
  void Recover();

  // Opens the kernel's door and puts what the table says in accord with the mounts that there are: a mount
  // that is gone leaves the table; one that nothing watches any more is taken down, for its holes would read
  // as zeros. Errors: those of Door::Start. Without a door, Mount gives FailedPrecondition.
  absl::Status OpenDoor(ondemand::DoorOptions options);

  // Makes calls that wait end soon, with Cancelled.
  void Cancel();
  // Lets go of the door; mounts stay. Idempotent. REQUIRES: no Mount or Unmount is under way
  void Stop();

  // What the store calls when a blob was completed or a chunk taken back. It calls again after an error;
  // after one of the latter the kernel may read the chunk unasked still.
  absl::Status OnBlobComplete(const std::shared_ptr<Blob>& blob);
  absl::Status OnBlobRevoked(const Blob& blob);
  // As Door::TakeTouched; adds nothing without a door.
  bool TakeTouched(const BlobKey& key, ChunkSet& touched);

  // Lets go of a blob that nothing of ours uses any more.
  void Release(const BlobKey& key);
  // For people: who holds the blob though none of the mounts that are listed does; empty if nobody. Looks at
  // the mounts of all processes.
  std::string HoldersOf(const BlobKey& key) const;
  // Cheap; to be called every second or so: when mounts have changed, follows those that others unmounted or
  // moved.
  void NoticeMounts();
  // To be called now and then: lets go of what was unmounted while somebody still read from it (below an
  // overlay, by an open file, in another mount namespace), and is not used any more; tries again to refuse
  // what could not be refused. Does nothing while a mount is being made.
  void Tend();

  // Discards what the kernel has of a blob apart from the store. Errors: FailedPrecondition while it is in
  // use.
  absl::Status DiscardKernelCopies(const BlobKey& key);

  // What the kernel's own copies take up on disk.
  uint64_t KernelCacheBytes() const;
  // Zeros without a door.
  ondemand::KeeperCounters keeper_counters() const;
  // Does not block. Errors: as Door::Status. OK without a door.
  absl::Status FrontEndStatus() const;
  void ReopenKeeperLog();

  absl::StatusOr<api::MountInfo> Mount(const api::MountRequest& request) override;
  absl::Status Unmount(const std::string& mount_point) override;
  absl::StatusOr<std::vector<api::UnmountResult>> UnmountAll(api::Readers readers, Instant deadline) override;
  absl::StatusOr<api::HolderReport> ListHolders() override;
  absl::StatusOr<std::vector<api::MountInfo>> ListMounts() override;
  // In the order of ListMounts' blobs; empty if nothing of ours is mounted there.
  std::vector<BlobKey> BlobsOf(const std::string& mount_point) const;
  absl::StatusOr<std::vector<api::FillProgress>> GetFillProgress(const std::string& mount_point) override;
  absl::StatusOr<api::ImageStarts> GetStartReports(const std::string& image) override;

 private:
  class Reservation;
  using DoorPtr = std::shared_ptr<ondemand::Door>;

  void OnTicket(ondemand::ReadTicket ticket);
  void NoteServed(const BlobKey& key, uint64_t length, const absl::StatusOr<ReadResult>& result);

  // --- Mounting.
  void TellPreparing(const std::string& mount_point, const ResolvedImage& resolved, Duration resolve_took,
                     const std::vector<std::shared_ptr<Blob>>& blobs, api::StartRecording recording);
  void TellUnmounted(const std::string& mount_point);
  absl::Status UnmountAs(const std::string& requested, api::Readers readers);
  absl::Status MountPrepared(const MountEntry& entry, Blob::Lease bootstrap, uint32_t flags);
  absl::Status GuardAndMount(const MountEntry& entry, uint32_t flags, ondemand::Door& door);
  absl::Status Guard(const MountedBlob& mounted, ondemand::Door& door);
  void Unguard(const std::vector<BlobKey>& keys);
  void DropOwnCopies(const std::vector<BlobKey>& keys);
  void Forget(const std::string& mount_point);
  void NoteInstance(const std::string& mount_point, const ondemand::ErofsInstance& instance, uint64_t device);
  void SetMountGauge();

  // --- What others do to mounts.
  std::string PlaceOf(const std::string& requested) const;
  void FollowMoves(const std::vector<ondemand::MountedImage>& mounts);
  void FollowMounts(ondemand::Door& door);

  // --- What is not mounted any more, and may be used still.
  void Leave(const std::string& mount_point);
  void ForgetDetached(const MountEntry& entry);
  void Touch(const MountEntry& entry);
  void LetGo(const MountEntry& entry);
  void ReleaseDetached();

  // --- Restarts.
  absl::Status ReconcileMounts();
  void TakeUp(const MountEntry& entry);
  void TakeUpUnmounted(const MountEntry& entry);
  void TakeUpDetached(const MountEntry& entry);
  void TakeUpOrphan(const MountEntry& entry);
  bool MayBeAt(const MountEntry& entry);
  void TakeDownOrphan(const MountEntry& entry);
  void ReleaseStrangers();
  void RefetchRecipes(std::vector<MountEntry> entries);

  DoorPtr door() const;
  std::vector<MountEntry> Entries() const;
  std::vector<MountEntry> Detached() const;
  // Both.
  std::vector<MountEntry> Users() const;
  api::MountInfo Describe(const MountEntry& entry) const;

  // Constant after construction.
  const Parts parts_;
  const Options options_;

  ServedCounts served_;
  std::atomic<bool> cancelled_{false};
  std::thread recipes_thread_;

  // Serialises what is told to the door of blobs and mounts, so that a blob is not let go while another mount
  // takes it up.
  std::mutex guard_mutex_;
  ondemand::MountWatch mount_watch_;  // guarded by guard_mutex_
  std::set<BlobKey> unrefused_;  // may be read unasked, though we can't guard them; guarded by guard_mutex_

  mutable std::mutex door_mutex_;
  DoorPtr door_;          // guarded by door_mutex_; null without one
  DoorPtr stopped_door_;  // what is mounted stays leased until the store has stopped

  mutable std::mutex table_mutex_;
  // Guarded by table_mutex_.
  MountTable table_;
  absl::flat_hash_map<std::string, Blob::Lease> bootstraps_;  // by LeaseKey
  std::set<std::string> busy_;                                // mount points under work
};

}  // namespace sluice
