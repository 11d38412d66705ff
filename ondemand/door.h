#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/chunk_set.h"
#include "node/executor.h"
#include "ondemand/backend.h"
#include "ondemand/cache_culler.h"
#include "ondemand/cache_filler.h"
#include "ondemand/keeper_client.h"
#include "ondemand/read_ticket.h"
#include "ondemand/ticket_pump.h"

namespace sluice::ondemand {

struct DoorOptions {
  Backend backend = Backend::kFanotify;  // not kOff
  std::string runtime_dir;               // holds the keeper's socket and lock; made if it is missing
  std::string state_dir = {};   // of the store: locked by its keeper, which has a second socket there
  std::string blobs_dir;        // the store's files, each named by the 64 hex digits of its key
  std::string cache_dir = {};   // cachefiles: of the kernel's copies; made if it is missing
  std::string domain = {};      // cachefiles: whose mounts share the copies; empty is each mount for itself
  std::string keeper_path;      // the sluice-keeper executable
  bool keeper_on_host = false;  // it runs in the host's namespaces: see keeper_on_host.h
  std::string keeper_log;       // file that a keeper's lines are appended to; empty is our own stderr
  Duration read_deadline = std::chrono::seconds(30);  // then a reader gets EIO
  Duration call_timeout = std::chrono::seconds(10);   // of one call to the keeper
  uint32_t slots_max = 16384;                         // reads that wait at once; a new keeper's only
  DescriptorStore* descriptor_store = nullptr;        // outlives the door; nullptr where there is none
};

// An EROFS image to mount.
struct MountRequest {
  std::string bootstrap_path;    // complete and verified: its own reads may not be watched
  BlobKey bootstrap = {};        // guarded, if GuardsBootstrap()
  std::vector<BlobKey> devices;  // the image's blobs in the order of its device table; guarded already
  std::string mount_point;       // absolute path of an empty directory
  std::string label;             // kept beside the mount for people and successors, e.g. the image reference
  uint32_t flags = 0;            // keeper::MountFlag: what it may not be used for
};

// Where the kernel's reads come in. The keeper process owns the kernel's side, whichever of its interfaces
// that is (Backend), and outlives this object; a read of chunks that are absent arrives here as a ReadTicket.
// Images are EROFS file systems (Documentation/filesystems/erofs.rst).
//
// Thread-safe.
class Door {
 public:
  // Called on the door's own thread for every read of absent chunks. Must not block.
  using OnTicket = TicketPump::OnTicket;

  // Connects to the keeper that runs already, or starts one, and begins to hand out tickets: first those that
  // a dead predecessor has left behind. Whatever on_ticket needs to find blobs must be ready before.
  // Errors: FailedPrecondition (another daemon is attached; the kernel or the file system lacks what is
  // needed), Unavailable (the keeper does not start or does not answer).
  static absl::StatusOr<std::unique_ptr<Door>> Start(DoorOptions options, OnTicket on_ticket);

  // Stops, and lets go of the keeper. Mounts stay, and so does the keeper while there are any: their present
  // chunks can still be read, others give EIO at the deadline unless another daemon comes first.
  ~Door();
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;
  // Idempotent. Blobs stay leased as long as this object lives: the kernel goes on to read their files.
  // Tickets that are still out wait for the next daemon, until their deadline; completing them has no effect
  // any more. The keeper goes on to answer from the blobs' presence maps, which stay mirrored until the
  // process ends. REQUIRES: no chunk of a complete blob is revoked and none evicted from now on. Errors:
  // Unavailable (images are mounted, and no keeper lives or could be started: once this process has ended
  // their holes are read as zeros, or their readers get errors).
  absl::Status Stop();

  // Makes the keeper know the blob and mirrors its presence map into the keeper's memory; the blob stays
  // leased until it is unguarded. `file_fd` is the store's file, used only during the call. Idempotent.
  // Errors: NotFound (no such file in blobs_dir), FailedPrecondition (file_fd is another file than the one
  // in blobs_dir, or its size is not the blob's), ResourceExhausted (16,384 blobs are guarded), Unavailable
  // (then it may be guarded all the same, with what a predecessor knew of it still read unasked: RefuseBlob).
  absl::Status GuardBlob(std::shared_ptr<Blob> blob, int file_fd);
  // Also what was guarded before this daemon started. Errors: FailedPrecondition while a mount uses the blob;
  // Unavailable. OK if it is not guarded.
  absl::Status UnguardBlob(const BlobKey& key);
  // What the keeper knows, also from before this daemon started.
  std::vector<BlobKey> GuardedBlobs() const;

  // Takes the kernel's events off a blob whose every chunk is present, synced and verified. Does nothing if
  // the blob is not complete or not guarded.
  absl::Status OnBlobComplete(const BlobKey& key);
  // To be called after a chunk's presence bit was cleared, before its bytes are touched: reads ask again, and
  // what the kernel has of it apart from the store is dropped. After an error it may be read unasked still;
  // to be repeated. Errors: Unavailable.
  absl::Status OnBlobRevoked(const BlobKey& key);
  // The same of a blob that a predecessor has guarded and we don't: nothing of it is read unasked any more.
  // OK if nobody guards it.
  absl::Status RefuseBlob(const BlobKey& key);

  // Whether the kernel reads the bootstrap through the door too, so that it is to be guarded as the image's
  // blobs are (cachefiles).
  bool GuardsBootstrap() const { return options_.backend == Backend::kCachefiles; }

  // Proves that the watch works by reading a hole through it, then mounts. Errors: as CheckMountPoint;
  // FailedPrecondition (a device is not guarded, or the watch does not work), InvalidArgument (the kernel
  // does not take the bootstrap), Unavailable.
  absl::Status MountImage(const MountRequest& request);
  // Errors: NotFound (not one of ours), FailedPrecondition (busy), Unavailable.
  absl::Status UnmountImage(const std::string& mount_point);
  // As UnmountImage; what is busy no path leads to any more, and who uses it keeps it until he ends. Errors:
  // as there, but for busy.
  absl::Status DetachImage(const std::string& mount_point);
  // Every read of every image gets an error from now on, and those that wait get it at once: never for what
  // is in the kernel's caches already, and with cachefiles in its copies. It is over with the first image
  // that is mounted when no other is used any more; until then MountImage gives FailedPrecondition. A keeper
  // that replaces this one does not know of it. Errors: Unavailable.
  absl::Status RefuseReads();
  // Mounts that exist now, also those made before this daemon started.
  absl::StatusOr<std::vector<MountedImage>> Mounts();
  // Whether the file system, mounted or not, was mounted by this door's keeper or one that it succeeded.
  bool Serves(const ErofsInstance& instance) const { return keeper_->Serves(instance); }
  // Takes a file system over whose keeper is gone, and that nobody guards since (fanotify): reads of these
  // blobs, which it has as devices, ask again from now on, once the kernel was made to forget what it has
  // read of them: DropCachedPages. The keeper stays until it is gone. Errors: FailedPrecondition (a blob is
  // not guarded; another backend), NotFound (it is gone), Unavailable.
  absl::Status AdoptOrphan(const ErofsInstance& instance, const std::vector<BlobKey>& blobs);

  // Discards what the kernel has of the blob apart from the store. Errors: FailedPrecondition while it is in
  // use; Unavailable.
  absl::Status DiscardKernelCopies(const BlobKey& key);

  // What these take up on disk; 0 where there are none.
  uint64_t KernelCacheBytes();

  Backend backend() const { return options_.backend; }
  // Since the first of an unbroken line of keepers was started.
  KeeperCounters counters() const;
  // Zeros if the blob is not guarded. A complete blob's reads raise no event and are counted nowhere.
  HitCounts Hits(const BlobKey& key) const;
  // Adds the blob's chunks that were read while they were present since it was called last, as far as the
  // keeper sees reads: not those that pass unasked (OnBlobComplete), nor those of the kernel's own caches and
  // copies. False if the keeper does not tell of blobs so large. REQUIRES: touched is as large as the blob
  bool TakeTouched(const BlobKey& key, ChunkSet& touched);
  // Keepers that died and were replaced by this object.
  uint64_t keepers_replaced() const;
  // The keeper's process, for people and tests.
  int32_t keeper_pid() const;
  // Unavailable if reads are not answered: the keeper is dead and could not be replaced, or is silent (see
  // KeeperClient::KeeperStatus), or the kernel's side is gone: an aborted FUSE connection, a cache that the
  // kernel has given up. Does not block.
  absl::Status Status() const;
  // Has the keeper open its log's file anew.
  void ReopenKeeperLog() { keeper_->ReopenLog(); }

 private:
  struct Guarded {
    Blob::Lease lease;
    BlobEntry entry;
  };

  Door(DoorOptions options, std::unique_ptr<KeeperClient> keeper);
  void StartCache();
  TicketPump::Deliver CacheDelivery() const;
  absl::StatusOr<BlobEntry> EntryOf(const BlobKey& key) const;
  absl::Status TakeBack(BlobEntry entry);
  absl::Status TakeBackInherited(const BlobKey& key);

  const DoorOptions options_;
  const std::unique_ptr<KeeperClient> keeper_;
  std::unique_ptr<CacheCuller> culler_;  // these two: cachefiles
  std::shared_ptr<CacheFiller> filler_;
  std::unique_ptr<TicketPump> pump_;

  std::mutex mount_mutex_;    // held while a mount is made, before mutex_
  mutable std::mutex mutex_;  // guards what follows, and orders marks with the checks before them
  absl::flat_hash_map<BlobKey, std::unique_ptr<Guarded>> guarded_;
  bool stopped_ = false;
};

}  // namespace sluice::ondemand
