#include "node/daemon/mounter.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "node/cancel_check.h"
#include "ondemand/mount_point.h"

namespace sluice {
namespace {

// The keeper refuses the read at the ticket's deadline; an answer should be there before.
constexpr Duration kAnswerMarginMax = std::chrono::milliseconds(100);

absl::Status NoDoor() {
  return absl::FailedPreconditionError(
      "no kernel backend works on this host, so nothing can be mounted; \"sluice doctor\" says what is "
      "missing");
}

absl::Status Stopping() {
  return absl::CancelledError("the node is stopping");
}

// The file system type that is mounted at the path, topmost; empty if none.
std::string TypeMountedAt(const std::string& path) {
  std::string type;
  const absl::StatusOr<std::vector<ondemand::MountInfo>> mounts = ondemand::ReadMountInfo();
  if (!mounts.ok()) return type;
  for (const ondemand::MountInfo& mount : *mounts) {
    if (mount.mount_point == path) type = mount.type;
  }
  return type;
}

void AlarmIfReadUnasked(const MountedBlob& blob, const absl::Status& told) {
  if (told.ok()) return;
  spdlog::error("ALARM: blob {} may be read unasked: {}", blob.spec.digest.ToString(), told.ToString());
}

// What the kernel reads through the door.
std::vector<MountedBlob> GuardedOf(const MountEntry& entry) {
  std::vector<MountedBlob> blobs = entry.blobs;
  if (entry.backend == ondemand::BackendName(ondemand::Backend::kCachefiles))
    blobs.push_back(entry.bootstrap);
  return blobs;
}

MountedBlob MountedOf(const Blob& blob, const BlobOrigin& origin) {
  MountedBlob mounted{blob.key(), *blob.facts()};
  mounted.spec.origins = {origin};
  return mounted;
}

std::vector<BlobKey> KeysOf(const std::vector<MountedBlob>& blobs) {
  std::vector<BlobKey> keys;
  for (const MountedBlob& blob : blobs) keys.push_back(blob.key);
  return keys;
}

// The path that the kernel knows the directory by. Errors: as ondemand::OpenMountPoint.
absl::StatusOr<std::string> UsablePlace(const std::string& path) {
  absl::StatusOr<ondemand::MountPoint> place = ondemand::OpenMountPoint(path);
  if (!place.ok()) return place.status();
  return std::move(place->path);
}

uint32_t FlagsOf(const api::MountOptions& options) {
  uint32_t flags = 0;
  if (!options.suid) flags |= keeper::kMountNoSuid;
  if (!options.dev) flags |= keeper::kMountNoDev;
  if (!options.exec) flags |= keeper::kMountNoExec;
  return flags;
}

bool Guards(const MountEntry& entry, const BlobKey& key) {
  const std::vector<MountedBlob> blobs = GuardedOf(entry);
  return std::any_of(blobs.begin(), blobs.end(), [&](const MountedBlob& blob) { return blob.key == key; });
}

const ondemand::MountedImage* FindInstance(const std::vector<ondemand::MountedImage>& mounts,
                                           const ondemand::ErofsInstance& instance) {
  const auto found = std::find_if(mounts.begin(), mounts.end(),
                                  [&](const auto& mount) { return mount.instance == instance; });
  return found == mounts.end() ? nullptr : &*found;
}

const ondemand::MountedImage* FindAt(const std::vector<ondemand::MountedImage>& mounts,
                                     const std::string& mount_point) {
  for (const ondemand::MountedImage& mount : mounts) {
    if (mount.mount_point == mount_point) return &mount;
  }
  return nullptr;
}

bool IsFanotify(const MountEntry& entry) {
  return entry.backend == ondemand::BackendName(ondemand::Backend::kFanotify);
}

// What a bootstrap's lease is found by: an entry's mount point; a detached one's is no place of its own.
std::string DetachedKey(const MountEntry& entry) {
  return absl::StrCat("detached ", entry.instance.inode);
}

}  // namespace

// Keeps a mount point from being worked on by two calls at once.
class Mounter::Reservation {
 public:
  Reservation(Mounter& mounter, std::string mount_point)
      : mounter_(mounter), mount_point_(std::move(mount_point)) {
    std::lock_guard lock(mounter_.table_mutex_);
    taken_ = mounter_.busy_.insert(mount_point_).second;
  }
  ~Reservation() {
    if (!taken_) return;
    std::lock_guard lock(mounter_.table_mutex_);
    mounter_.busy_.erase(mount_point_);
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  absl::Status status() const {
    if (taken_) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat(mount_point_, " is being mounted or unmounted just now; try again"));
  }

 private:
  Mounter& mounter_;
  const std::string mount_point_;
  bool taken_;
};

Mounter::Mounter(Parts parts, Options options, MountTable table)
    : parts_(parts), options_(options), table_(std::move(table)) {}

Mounter::~Mounter() {
  Stop();
}

// ------------------------------------------------------------------------------------------- restarts

void Mounter::Recover() {
  const size_t mounted = Entries().size();
  const std::vector<MountEntry> users = Users();
  for (size_t i = 0; i < users.size(); ++i) {
    const MountEntry& entry = users[i];
    std::vector<MountedBlob> blobs = entry.blobs;
    blobs.push_back(entry.bootstrap);
    for (const MountedBlob& mounted_blob : blobs) {
      const absl::StatusOr<std::shared_ptr<Blob>> blob =
          parts_.store.OpenAs(mounted_blob.key, mounted_blob.spec);
      if (!blob.ok()) {
        spdlog::error("ALARM: readers of {} get EIO: blob {} can't be taken up: {}", entry.mount_point,
                      mounted_blob.spec.digest.ToString(), blob.status().ToString());
      } else if (mounted_blob.key == entry.bootstrap.key) {
        std::lock_guard lock(table_mutex_);
        bootstraps_.insert_or_assign(i < mounted ? entry.mount_point : DetachedKey(entry),
                                     Blob::Lease(*blob, Blob::Lease::OfFile::kYes));
      }
    }
  }
}

absl::Status Mounter::OpenDoor(ondemand::DoorOptions options) {
  absl::StatusOr<std::unique_ptr<ondemand::Door>> door = ondemand::Door::Start(
      std::move(options), [this](ondemand::ReadTicket ticket) { OnTicket(std::move(ticket)); });
  if (!door.ok()) return door.status();
  {
    std::lock_guard lock(door_mutex_);
    door_ = *std::move(door);
  }
  return ReconcileMounts();
}

absl::Status Mounter::ReconcileMounts() {
  const absl::StatusOr<std::vector<ondemand::MountedImage>> watched = door()->Mounts();
  if (!watched.ok()) return watched.status();
  FollowMoves(*watched);
  for (const MountEntry& entry : Entries()) {
    if (const ondemand::MountedImage* mount = FindAt(*watched, entry.mount_point)) {
      NoteInstance(entry.mount_point, mount->instance, mount->device);
      TakeUp(entry);
      spdlog::info("found {} again, mounted at {}", entry.reference, entry.mount_point);
    } else {
      TakeUpUnmounted(entry);
    }
  }
  for (const MountEntry& entry : Detached()) TakeUpDetached(entry);
  for (const ondemand::MountedImage& mount : *watched) {
    std::unique_lock lock(table_mutex_);
    if (table_.Find(mount.mount_point)) continue;
    lock.unlock();
    const absl::Status unmounted = door()->UnmountImage(mount.mount_point);
    spdlog::warn("{} was mounted at {} but not in the table of mounts; unmounting it: {}", mount.label,
                 mount.mount_point, unmounted.ToString());
  }
  ReleaseStrangers();
  SetMountGauge();
  recipes_thread_ = std::thread([this, entries = Users()]() mutable { RefetchRecipes(std::move(entries)); });
  return absl::OkStatus();
}

void Mounter::TakeUp(const MountEntry& entry) {
  for (const MountedBlob& blob : GuardedOf(entry)) {
    std::lock_guard guard(guard_mutex_);
    const absl::Status guarded = Guard(blob, *door());
    if (!guarded.ok()) {
      // What a predecessor has told the keeper of it, and given the kernel, is not true any more.
      const absl::Status refused = door()->RefuseBlob(blob.key);
      AlarmIfReadUnasked(blob, refused);
      if (!refused.ok()) unrefused_.insert(blob.key);
      served_.Note(blob.key, 0, guarded);
      spdlog::error("ALARM: readers of {} get EIO: blob {} can't be taken up: {}", entry.mount_point,
                    blob.spec.digest.ToString(), guarded.ToString());
    } else if (options_.fill_by_default) {
      parts_.fills.Start(blob.key, FetchClass::kBackfill, FillOwner::kMounts);
    }
  }
}

// Of the table, and not one of the keeper's that can be seen at its place.
void Mounter::TakeUpUnmounted(const MountEntry& entry) {
  const std::string type = TypeMountedAt(entry.mount_point);
  if (type == "erofs" && MayBeAt(entry)) {
    TakeDownOrphan(entry);
  } else if (!type.empty() && ondemand::Lives(entry.instance) && door()->Serves(entry.instance)) {
    spdlog::warn("{} is mounted over at {}; it is served on", entry.reference, entry.mount_point);
    TakeUp(entry);
  } else {
    spdlog::info("{} is not mounted at {} any more", entry.reference, entry.mount_point);
    Leave(entry.mount_point);
  }
}

// REQUIRES: an EROFS file system is mounted at its place: what another one does there may not be touched, and
// to look at a dead network file system would be to wait for it.
bool Mounter::MayBeAt(const MountEntry& entry) {
  const absl::StatusOr<ondemand::ErofsInstance> there = ondemand::ErofsInstanceAt(entry.mount_point);
  if (!there.ok()) return true;
  if (entry.instance.known()) return *there == entry.instance;
  NoteInstance(entry.mount_point, *there, 0);
  return true;
}

void Mounter::TakeDownOrphan(const MountEntry& entry) {
  spdlog::error(
      "ALARM: {} is mounted at {} but its keeper is gone: reads of absent bytes would give zeros. It is "
      "unmounted; "
      "restart what runs from it",
      entry.reference, entry.mount_point);
  const absl::Status detached = ondemand::DetachForeignMount(entry.mount_point);
  if (detached.ok()) return Leave(entry.mount_point);
  spdlog::error("ALARM: cannot unmount {}: {}", entry.mount_point, detached.ToString());
}

// What reads from it goes on to: guarded as before, or, if its keeper is gone, again. Where the kernel fails
// closed (FUSE, cachefiles), readers of a dead mount get errors, and nothing more is to be done.
void Mounter::TakeUpDetached(const MountEntry& entry) {
  const bool served = door()->Serves(entry.instance);
  if (!ondemand::Lives(entry.instance) || (!served && !IsFanotify(entry))) return ForgetDetached(entry);
  served ? TakeUp(entry) : TakeUpOrphan(entry);
}

void Mounter::TakeUpOrphan(const MountEntry& entry) {
  TakeUp(entry);
  absl::Status status = door()->AdoptOrphan(entry.instance, KeysOf(entry.blobs));
  status.Update(ondemand::DropCachedPages());
  if (status.ok()) {
    spdlog::error(
        "ALARM: {}, once mounted at {}, is used still, and its keeper was gone: what was absent read as "
        "zeros meanwhile. It is guarded again; restart what runs from it",
        entry.reference, entry.mount_point);
  } else {
    spdlog::error(
        "ALARM: {}, once mounted at {}, is used still, its keeper is gone, and what is absent reads as "
        "zeros: {}; end what runs from it",
        entry.reference, entry.mount_point, status.ToString());
  }
}

// A predecessor that died half-way through a mount or an unmount has left the keeper with blobs that nothing
// uses.
void Mounter::ReleaseStrangers() {
  const std::vector<BlobKey> guarded = door()->GuardedBlobs();
  const std::vector<MountEntry> entries = Users();
  for (const BlobKey& key : guarded) {
    const bool used = std::any_of(entries.begin(), entries.end(),
                                  [&](const MountEntry& entry) { return Guards(entry, key); });
    if (used) continue;
    const absl::Status released = door()->UnguardBlob(key);
    if (!released.ok()) spdlog::warn("blob {} stays guarded: {}", key.Short(), released.ToString());
  }
}

// Recipes live in the index and are lost with it.
void Mounter::RefetchRecipes(std::vector<MountEntry> entries) {
  for (const MountEntry& entry : entries) {
    if (cancelled_) return;
    const absl::StatusOr<p2p::ImageReference> reference = p2p::ImageReference::Parse(entry.reference);
    if (!reference.ok()) continue;
    std::vector<std::shared_ptr<Blob>> blobs;
    for (const MountedBlob& mounted : entry.blobs) {
      if (std::shared_ptr<Blob> blob = parts_.store.Find(mounted.key)) blobs.push_back(std::move(blob));
    }
    const std::string missing =
        parts_.resolver.FetchRecipes(*reference, entry.manifest, blobs, cancelled_).missing;
    if (!missing.empty()) spdlog::warn("{}: chunks are served unverified: {}", entry.reference, missing);
  }
}

void Mounter::Cancel() {
  cancelled_ = true;
}

void Mounter::Stop() {
  Cancel();
  if (recipes_thread_.joinable()) recipes_thread_.join();
  DoorPtr door;
  {
    std::lock_guard lock(door_mutex_);
    stopped_door_ = door = std::exchange(door_, nullptr);
  }
  if (!door) return;
  if (const absl::Status stopped = door->Stop(); !stopped.ok())
    spdlog::error("ALARM: what is absent may read as zeros when the node has ended: {}", stopped.ToString());
}

// ------------------------------------------------------------------------------------- the kernel's reads

void Mounter::OnTicket(ondemand::ReadTicket ticket) {
  const Instant began = parts_.clock.Now();
  const uint64_t read = parts_.reports.ReadBegan(ticket.key());
  if (parts_.observer != nullptr) parts_.observer->Demanded(ticket.key(), ticket.range());
  const Duration margin = std::min(kAnswerMarginMax, (ticket.deadline() - parts_.clock.Now()) / 4);
  ReadRequest request{ticket.key(), ticket.range(), FetchClass::kDemand, ticket.deadline() - margin};
  auto done = [this, began, read, ticket = std::move(ticket)](absl::StatusOr<ReadResult> result) mutable {
    const BlobKey key = ticket.key();
    const uint64_t length = ticket.range().length;
    std::move(ticket).Complete(result.status());
    parts_.reports.ReadEnded(key, read, length, parts_.clock.Now() - began, result);
    NoteServed(key, length, result);
  };
  parts_.cache.Read(request, std::move(done));
}

void Mounter::NoteServed(const BlobKey& key, uint64_t length, const absl::StatusOr<ReadResult>& result) {
  // What is under way when the node stops goes back to the keeper, and waits there for the next daemon.
  if (absl::IsCancelled(result.status())) return;
  (result.ok() ? parts_.telemetry.ondemand_filled : parts_.telemetry.ondemand_failed).Add();
  served_.Note(key, length, result);
  if (result.ok()) return;
  const uint64_t errors = served_.ErrorsToLog(key, parts_.clock.Now());
  if (errors > 0) {
    spdlog::error("a reader of {} gets EIO ({} since the last line): {}", key.ToString(), errors,
                  result.status().ToString());
  }
}

absl::Status Mounter::OnBlobComplete(const std::shared_ptr<Blob>& blob) {
  if (parts_.observer != nullptr && parts_.observer->Watches(blob->key())) return absl::OkStatus();
  const DoorPtr door = this->door();
  return door ? door->OnBlobComplete(blob->key()) : absl::OkStatus();
}

bool Mounter::TakeTouched(const BlobKey& key, ChunkSet& touched) {
  const DoorPtr door = this->door();
  return !door || door->TakeTouched(key, touched);
}

absl::Status Mounter::OnBlobRevoked(const Blob& blob) {
  const DoorPtr door = this->door();
  if (door) return door->OnBlobRevoked(blob.key());
  // A door that has stopped has left a keeper behind, which goes on to let the kernel read.
  return cancelled_ ? absl::UnavailableError("the node is stopping") : absl::OkStatus();
}

// ------------------------------------------------------------------------------------------- mounting

absl::StatusOr<api::MountInfo> Mounter::Mount(const api::MountRequest& request) {
  const DoorPtr door = this->door();
  if (!door) return NoDoor();
  absl::StatusOr<std::string> usable = UsablePlace(request.mount_point);
  if (!usable.ok()) return usable.status();
  const std::string mount_point = *std::move(usable);
  const Reservation reservation(*this, mount_point);
  if (!reservation.status().ok()) return reservation.status();
  {
    std::lock_guard guard(guard_mutex_);
    FollowMounts(*door);
    Leave(mount_point);  // somebody else has unmounted what the table has there
  }

  const CancelCheck cancelled([this, &request] { return cancelled_ || request.cancelled; });
  const Instant began = parts_.clock.Now();
  const absl::StatusOr<ResolvedImage> resolved = parts_.resolver.Resolve(request.reference);
  if (!resolved.ok()) return resolved.status();
  const Duration resolve_took = parts_.clock.Now() - began;
  if (parts_.observer != nullptr) parts_.observer->Resolved(resolved->reference.origin, resolved->manifest);
  const Instant deadline = std::min(request.deadline, parts_.clock.Now() + options_.bootstrap_timeout);
  const auto on_blobs = [&](const std::vector<std::shared_ptr<Blob>>& blobs) {
    TellPreparing(mount_point, *resolved, resolve_took, blobs, request.recording);
  };
  absl::Cleanup failed = [&] { TellUnmounted(mount_point); };
  absl::StatusOr<PreparedImage> prepared =
      parts_.preparer.Prepare(*resolved, {deadline, cancelled, on_blobs});
  if (!prepared.ok()) return prepared.status();
  if (request.cancelled) return absl::CancelledError("whoever asked for the mount has gone");
  MountEntry entry{mount_point,
                   resolved->reference.ToString(),
                   resolved->manifest,
                   std::string(ondemand::BackendName(door->backend())),
                   MountedOf(prepared->bootstrap.blob(), resolved->reference.origin),
                   {}};
  for (const Blob::Lease& lease : prepared->blobs) {
    entry.blobs.push_back(MountedOf(lease.blob(), resolved->reference.origin));
  }
  parts_.reports.Prepared(mount_point, prepared->times);
  const absl::Status mounted = MountPrepared(entry, std::move(prepared->bootstrap), FlagsOf(request.options));
  if (!mounted.ok()) return mounted;
  std::move(failed).Cancel();
  parts_.reports.Mounted(entry.mount_point);

  const bool fill = request.fill == api::FillMode::kBackground ||
                    (request.fill == api::FillMode::kDefault && options_.fill_by_default);
  if (fill) {
    for (const MountedBlob& blob : entry.blobs)
      parts_.fills.Start(blob.key, FetchClass::kBackfill, FillOwner::kMounts);
  }
  Touch(entry);
  SetMountGauge();
  spdlog::info("mounted {} at {}{}", entry.reference, entry.mount_point,
               fill ? ", filling it in the background" : "");
  return Describe(entry);
}

absl::Status Mounter::MountPrepared(const MountEntry& entry, Blob::Lease bootstrap, uint32_t flags) {
  std::lock_guard guard(guard_mutex_);
  const DoorPtr door = this->door();
  if (!door || cancelled_) return Stopping();
  {
    std::lock_guard lock(table_mutex_);
    const absl::Status added = table_.Add(entry);
    if (!added.ok()) return added;
    bootstraps_.insert_or_assign(entry.mount_point,
                                 Blob::Lease(bootstrap.shared(), Blob::Lease::OfFile::kYes));
  }
  absl::Status mounted = GuardAndMount(entry, flags, *door);
  if (mounted.ok()) {
    const absl::StatusOr<std::vector<ondemand::MountedImage>> mounts = door->Mounts();
    const ondemand::MountedImage* mount = mounts.ok() ? FindAt(*mounts, entry.mount_point) : nullptr;
    if (mount != nullptr) NoteInstance(entry.mount_point, mount->instance, mount->device);
    return mounted;
  }
  // A keeper that answered too late may have mounted it all the same.
  const absl::Status undone = door->UnmountImage(entry.mount_point);
  if (undone.ok() || absl::IsNotFound(undone)) {
    Forget(entry.mount_point);
  } else {
    spdlog::error("{} may be mounted at {} after a failed mount: {}", entry.reference, entry.mount_point,
                  undone.ToString());
  }
  return mounted;
}

absl::Status Mounter::GuardAndMount(const MountEntry& entry, uint32_t flags, ondemand::Door& door) {
  const ondemand::MountRequest request{parts_.store.BlobPath(entry.bootstrap.key),
                                       entry.bootstrap.key,
                                       KeysOf(entry.blobs),
                                       entry.mount_point,
                                       entry.reference,
                                       flags};
  for (const MountedBlob& blob : GuardedOf(entry)) {
    const absl::Status guarded = Guard(blob, door);
    if (!guarded.ok()) return guarded;
  }
  return door.MountImage(request);
}

// REQUIRES: guard_mutex_ is held
absl::Status Mounter::Guard(const MountedBlob& mounted, ondemand::Door& door) {
  const BlobKey& key = mounted.key;
  const absl::StatusOr<std::shared_ptr<Blob>> blob = parts_.store.OpenAs(key, mounted.spec);
  if (!blob.ok()) return blob.status();
  if ((*blob)->refused()) return RefusedBlob(mounted.spec.digest);
  const absl::StatusOr<Blob::Lease> lease = parts_.store.Acquire(key);
  if (!lease.ok()) return lease.status();
  const absl::StatusOr<index::FileDescriptor> file = parts_.store.OpenForRead(key);
  if (!file.ok()) return file.status();
  const absl::Status guarded = door.GuardBlob(*blob, file->get());
  // One that was whole before is not reported again.
  const bool is_watched = parts_.observer != nullptr && parts_.observer->Watches(key);
  if (guarded.ok() && parts_.store.IsSettled(key) && !is_watched) return door.OnBlobComplete(key);
  return guarded;
}

// REQUIRES: guard_mutex_ is held, or nothing else works with the door yet
void Mounter::Unguard(const std::vector<BlobKey>& keys) {
  const DoorPtr door = this->door();
  const std::vector<MountEntry> entries = Users();
  for (const BlobKey& key : keys) {
    const bool used = std::any_of(entries.begin(), entries.end(),
                                  [&](const MountEntry& entry) { return Guards(entry, key); });
    if (used) continue;
    parts_.fills.Stop(key, FillOwner::kMounts);
    served_.Forget(key);
    const absl::Status status = door ? door->UnguardBlob(key) : absl::OkStatus();
    if (!status.ok()) spdlog::warn("blob {} stays guarded: {}", key.Short(), status.ToString());
  }
}

// Of what is not mounted any more. Bootstraps stay: an image is mounted only when its is in the store. What
// the kernel's copies lack is fetched again when it is read.
void Mounter::DropOwnCopies(const std::vector<BlobKey>& keys) {
  const std::vector<MountEntry> entries = Users();
  for (const BlobKey& key : keys) {
    const bool used = std::any_of(entries.begin(), entries.end(),
                                  [&](const MountEntry& entry) { return Guards(entry, key); });
    if (used) continue;
    // One that is pinned, or that somebody reads, stays too.
    const absl::Status dropped = parts_.store.Evict(key, EvictReason::kRequested);
    if (!dropped.ok()) spdlog::info("blob {} stays in the store: {}", key.Short(), dropped.ToString());
  }
}

absl::Status Mounter::Unmount(const std::string& requested) {
  return UnmountAs(requested, api::Readers::kKeep);
}

absl::Status Mounter::UnmountAs(const std::string& requested, api::Readers readers) {
  const DoorPtr door = this->door();
  if (!door) return NoDoor();
  const std::string mount_point = PlaceOf(requested);
  const Reservation reservation(*this, mount_point);
  if (!reservation.status().ok()) return reservation.status();
  std::lock_guard guard(guard_mutex_);
  FollowMounts(*door);
  {
    std::lock_guard lock(table_mutex_);
    if (!table_.Find(mount_point)) {
      return absl::NotFoundError(absl::StrCat("nothing of sluice's is mounted at ", mount_point,
                                              "; \"sluice status\" says what is mounted where"));
    }
  }
  const absl::Status unmounted =
      readers == api::Readers::kEnd ? door->DetachImage(mount_point) : door->UnmountImage(mount_point);
  if (absl::IsNotFound(unmounted) && !TypeMountedAt(mount_point).empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("something else is mounted over ", mount_point, "; unmount that first"));
  }
  // One that somebody else unmounted is gone all the same.
  if (!unmounted.ok() && !absl::IsNotFound(unmounted)) return unmounted;
  Leave(mount_point);
  spdlog::info("unmounted {}", mount_point);
  return absl::OkStatus();
}

void Mounter::Forget(const std::string& mount_point) {
  MountEntry forgotten;
  {
    std::lock_guard lock(table_mutex_);
    const MountEntry* entry = table_.Find(mount_point);
    if (!entry) return;
    forgotten = *entry;
    const absl::Status removed = table_.Remove(mount_point);
    if (!removed.ok()) {
      spdlog::warn("{} is unmounted but stays in the table of mounts until the next start: {}", mount_point,
                   removed.ToString());
    }
    bootstraps_.erase(mount_point);
  }
  LetGo(forgotten);
  SetMountGauge();
}

// The bootstrap last: it is small, and without it nothing of what is left can be mounted.
void Mounter::Touch(const MountEntry& entry) {
  for (const MountedBlob& blob : entry.blobs) parts_.store.Touch(blob.key);
  parts_.store.Touch(entry.bootstrap.key);
}

// REQUIRES: as Unguard; it is in the table no more
void Mounter::LetGo(const MountEntry& entry) {
  Touch(entry);  // it was in use until now, however long ago it was mounted
  Unguard(KeysOf(GuardedOf(entry)));
  if (entry.backend == ondemand::BackendName(ondemand::Backend::kCachefiles) && !options_.keep_copy)
    DropOwnCopies(KeysOf(entry.blobs));
}

void Mounter::NoteInstance(const std::string& mount_point, const ondemand::ErofsInstance& instance,
                           uint64_t device) {
  std::lock_guard lock(table_mutex_);
  const MountEntry* entry = table_.Find(mount_point);
  if (!entry || (entry->instance == instance && entry->device == device)) return;
  const absl::Status noted = table_.Identify(mount_point, instance, device);
  if (!noted.ok()) spdlog::warn("which file system is at {} is not noted: {}", mount_point, noted.ToString());
}

// --------------------------------------------------------------------------------- what others do to mounts

// A path that leads to a mount is not walked if it is known: it may lead through a file system that hangs.
std::string Mounter::PlaceOf(const std::string& requested) const {
  {
    std::lock_guard lock(table_mutex_);
    if (table_.Find(requested)) return requested;
  }
  const absl::StatusOr<keeper::Descriptor> directory = ondemand::OpenForeignDirectory(requested);
  return directory.ok() ? ondemand::PathOf(*directory) : requested;
}

// REQUIRES: as Unguard
void Mounter::FollowMoves(const std::vector<ondemand::MountedImage>& mounts) {
  for (const MountEntry& entry : Entries()) {
    const ondemand::MountedImage* const mount =
        entry.instance.known() ? FindInstance(mounts, entry.instance) : nullptr;
    if (mount == nullptr || mount->mount_point == entry.mount_point) continue;
    std::lock_guard lock(table_mutex_);
    if (!table_.Find(entry.mount_point) || table_.Find(mount->mount_point)) continue;
    const absl::Status moved = table_.Move(entry.mount_point, mount->mount_point);
    auto lease = bootstraps_.extract(entry.mount_point);
    if (!lease.empty()) bootstraps_.insert_or_assign(mount->mount_point, std::move(lease.mapped()));
    parts_.reports.Moved(entry.mount_point, mount->mount_point);
    spdlog::warn("{} was moved from {} to {} by somebody{}", entry.reference, entry.mount_point,
                 mount->mount_point, moved.ok() ? "" : "; " + moved.ToString());
  }
}

// REQUIRES: guard_mutex_ is held
void Mounter::FollowMounts(ondemand::Door& door) {
  const absl::StatusOr<std::vector<ondemand::MountedImage>> mounts = door.Mounts();
  if (!mounts.ok()) return;
  FollowMoves(*mounts);
  for (const MountEntry& entry : Entries()) {
    if (FindAt(*mounts, entry.mount_point) != nullptr) continue;
    const bool mounted_over = !TypeMountedAt(entry.mount_point).empty() && ondemand::Lives(entry.instance);
    if (!mounted_over) {
      spdlog::info("{} was unmounted from {} by somebody", entry.reference, entry.mount_point);
      Leave(entry.mount_point);
    }
  }
}

void Mounter::NoticeMounts() {
  const std::unique_lock guard(guard_mutex_, std::try_to_lock);
  const DoorPtr door = this->door();
  if (guard.owns_lock() && door && mount_watch_.Changed()) FollowMounts(*door);
}

std::string Mounter::HoldersOf(const BlobKey& key) const {
  std::string holders;
  for (const MountEntry& entry : Detached()) {
    if (entry.device == 0 || !Guards(entry, key) || !ondemand::Lives(entry.instance)) continue;
    const std::vector<ondemand::ForeignMount> copies = ondemand::FindForeignMounts(entry.device);
    for (const ondemand::ForeignMount& copy : copies) {
      absl::StrAppend(&holders, holders.empty() ? "" : "; ", "a copy of the mount of ", entry.reference,
                      " is at ", copy.mount_point, " in the mount namespace of pid ", copy.pid, " (",
                      copy.process, ")");
    }
    if (copies.empty()) {
      absl::StrAppend(&holders, holders.empty() ? "" : "; ", "the mount of ", entry.reference, ", once at ",
                      entry.mount_point,
                      ", is not listed any more, and used by a pid that has files of it open");
    }
  }
  return holders;
}

// ------------------------------------------------------------------- not mounted any more, and used still

// REQUIRES: as Unguard; nothing of ours is mounted there
void Mounter::Leave(const std::string& mount_point) {
  TellUnmounted(mount_point);
  MountEntry left;
  {
    std::lock_guard lock(table_mutex_);
    const MountEntry* entry = table_.Find(mount_point);
    if (!entry) return;
    left = *entry;
  }
  if (!left.instance.known() || !ondemand::Lives(left.instance)) return Forget(mount_point);
  {
    std::lock_guard lock(table_mutex_);
    const absl::Status detached = table_.Detach(mount_point);
    if (!detached.ok())
      spdlog::error("{} is used still, and the next daemon may not know: {}", left.reference,
                    detached.ToString());
    auto lease = bootstraps_.extract(mount_point);
    if (!lease.empty()) bootstraps_.insert_or_assign(DetachedKey(left), std::move(lease.mapped()));
  }
  spdlog::warn("{} is not mounted at {} any more, but used still; its blobs are kept until it is not",
               left.reference, mount_point);
  SetMountGauge();
}

// REQUIRES: as Unguard
void Mounter::ForgetDetached(const MountEntry& entry) {
  {
    std::lock_guard lock(table_mutex_);
    const absl::Status removed = table_.RemoveDetached(entry.instance);
    if (!removed.ok())
      spdlog::warn("{} stays in the table of mounts: {}", entry.reference, removed.ToString());
    bootstraps_.erase(DetachedKey(entry));
  }
  LetGo(entry);
  spdlog::info("{}, once mounted at {}, is not used any more", entry.reference, entry.mount_point);
}

// REQUIRES: as Unguard
void Mounter::ReleaseDetached() {
  for (const MountEntry& entry : Detached()) {
    if (!ondemand::Lives(entry.instance)) ForgetDetached(entry);
  }
}

void Mounter::Tend() {
  const std::unique_lock guard(guard_mutex_, std::try_to_lock);
  const DoorPtr door = this->door();
  if (!guard.owns_lock() || !door) return;
  FollowMounts(*door);  // the keeper's namespace may be another one, of whose changes we don't hear
  ReleaseDetached();
  std::erase_if(unrefused_, [&](const BlobKey& key) { return door->RefuseBlob(key).ok(); });
}

// --------------------------------------------------------------------------------------------- reports

Mounter::DoorPtr Mounter::door() const {
  std::lock_guard lock(door_mutex_);
  return door_;
}

std::vector<MountEntry> Mounter::Entries() const {
  std::lock_guard lock(table_mutex_);
  return table_.entries();
}

std::vector<MountEntry> Mounter::Detached() const {
  std::lock_guard lock(table_mutex_);
  return table_.detached();
}

std::vector<MountEntry> Mounter::Users() const {
  std::lock_guard lock(table_mutex_);
  std::vector<MountEntry> users = table_.entries();
  users.insert(users.end(), table_.detached().begin(), table_.detached().end());
  return users;
}

void Mounter::SetMountGauge() {
  parts_.telemetry.mounts.Set(static_cast<int64_t>(Entries().size()));
}

api::MountInfo Mounter::Describe(const MountEntry& entry) const {
  const DoorPtr door = this->door();
  api::MountInfo info;
  info.reference = entry.reference;
  info.manifest_digest = entry.manifest;
  info.mount_point = entry.mount_point;
  info.backend = entry.backend;
  for (const auto& [key, spec] : entry.blobs) {
    const std::shared_ptr<Blob> blob = parts_.store.Find(key);
    info.blobs.push_back({spec.digest, spec.size, blob ? blob->present_bytes() : 0});
    const ServedCounts::Counts counts = served_.Of(key);
    for (size_t source = 0; source < kSourceKindCount; ++source) {
      info.served.reads[source] += counts.totals.reads[source];
      info.served.bytes[source] += counts.totals.bytes[source];
    }
    const ondemand::HitCounts hits = door ? door->Hits(key) : ondemand::HitCounts{};
    info.served.reads[static_cast<size_t>(SourceKind::kLocal)] += hits.reads;
    info.served.bytes[static_cast<size_t>(SourceKind::kLocal)] += hits.bytes;
    info.read_errors += counts.errors + hits.failed;
    if (!counts.last_error.empty() && counts.last_error_time >= info.last_error_time) {
      info.last_error = counts.last_error;
      info.last_error_time = counts.last_error_time;
    }
    if (hits.failed > 0) {
      // Which was the last of all nobody knows.
      absl::StrAppend(&info.last_error, info.last_error.empty() ? "" : "; ", hits.failed,
                      " without the daemon: ", hits.last_failure);
    }
  }
  return info;
}

absl::StatusOr<std::vector<api::MountInfo>> Mounter::ListMounts() {
  NoticeMounts();
  std::vector<api::MountInfo> mounts;
  for (const MountEntry& entry : Entries()) mounts.push_back(Describe(entry));
  std::sort(mounts.begin(), mounts.end(),
            [](const auto& a, const auto& b) { return a.mount_point < b.mount_point; });
  return mounts;
}

std::vector<BlobKey> Mounter::BlobsOf(const std::string& mount_point) const {
  std::lock_guard lock(table_mutex_);
  std::vector<BlobKey> keys;
  const MountEntry* const entry = table_.Find(mount_point);
  if (!entry) return keys;
  for (const MountedBlob& blob : entry->blobs) keys.push_back(blob.key);
  return keys;
}

absl::StatusOr<std::vector<api::FillProgress>> Mounter::GetFillProgress(const std::string& requested) {
  const std::string mount_point = PlaceOf(requested);
  std::optional<MountEntry> entry;
  {
    std::lock_guard lock(table_mutex_);
    if (const MountEntry* found = table_.Find(mount_point)) entry = *found;
  }
  if (!entry) return absl::NotFoundError(absl::StrCat("nothing of sluice's is mounted at ", mount_point));
  std::vector<api::FillProgress> progress;
  for (const auto& [key, spec] : entry->blobs) {
    const std::shared_ptr<Blob> blob = parts_.store.Find(key);
    const BackgroundFill::Progress fill = parts_.fills.Of(key);
    progress.push_back({{spec.digest, spec.size, blob ? blob->present_bytes() : 0}, fill.state, fill.error});
  }
  return progress;
}

void Mounter::Release(const BlobKey& key) {
  std::lock_guard guard(guard_mutex_);
  ReleaseDetached();
  Unguard({key});
}

absl::Status Mounter::DiscardKernelCopies(const BlobKey& key) {
  const DoorPtr door = this->door();
  return door ? door->DiscardKernelCopies(key) : absl::OkStatus();
}

uint64_t Mounter::KernelCacheBytes() const {
  const DoorPtr door = this->door();
  return door ? door->KernelCacheBytes() : 0;
}

ondemand::KeeperCounters Mounter::keeper_counters() const {
  const DoorPtr door = this->door();
  return door ? door->counters() : ondemand::KeeperCounters{};
}

absl::Status Mounter::FrontEndStatus() const {
  const DoorPtr door = this->door();
  return door ? door->Status() : absl::OkStatus();
}

void Mounter::ReopenKeeperLog() {
  if (const DoorPtr door = this->door()) door->ReopenKeeperLog();
}

}  // namespace sluice
