#include "ondemand/door.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "ondemand/keeper/clock.h"
#include "ondemand/mount_point.h"

namespace sluice::ondemand {
namespace {

// Discarded at once when the kernel's cache is full.
constexpr int kDiscardLooks = 2;
constexpr Duration kDiscardPause = std::chrono::milliseconds(300);
constexpr uint64_t kRoomBytes = uint64_t{256} << 20;

KeeperClientOptions ClientOptions(const DoorOptions& options) {
  return {.door = DoorKindOf(options.backend),
          .runtime_dir = options.runtime_dir,
          .state_dir = options.state_dir,
          .blobs_dir = options.blobs_dir,
          .cache_dir = options.cache_dir,
          .keeper_path = options.keeper_path,
          .keeper_log = options.keeper_log,
          .on_host = options.keeper_on_host,
          .read_deadline = options.read_deadline,
          .call_timeout = options.call_timeout,
          .slots_max = options.slots_max,
          .descriptor_store = options.descriptor_store};
}

// It becomes a part of a mount option, and of a file's name.
absl::Status CheckDomain(const std::string& domain) {
  const bool fits =
      domain.size() < keeper::kDomainMax && std::all_of(domain.begin(), domain.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '-' || c == '_' || c == '.';
      });
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("ondemand.domain \"", domain, "\" is not a name of at most ",
                                                 keeper::kDomainMax - 1, " letters, digits, dots, - and _"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Door>> Door::Start(DoorOptions options, OnTicket on_ticket) {
  if (absl::Status fits = CheckDomain(options.domain); !fits.ok()) return fits;
  absl::StatusOr<std::unique_ptr<KeeperClient>> keeper = KeeperClient::Connect(ClientOptions(options));
  if (!keeper.ok()) return keeper.status();
  std::unique_ptr<Door> door(new Door(std::move(options), *std::move(keeper)));
  if (door->keeper_->objects() != nullptr) door->StartCache();
  door->pump_ = std::make_unique<TicketPump>(door->keeper_->journal(), door->keeper_->completion_fd(),
                                             std::move(on_ticket), door->CacheDelivery());
  return door;
}

void Door::StartCache() {
  auto device = std::make_shared<const keeper::Descriptor>(keeper_->DuplicateRequests());
  const auto say = [device](const std::string& command) {
    return write(device->get(), command.data(), command.size()) >= 0 ? 0 : errno;
  };
  culler_ = std::make_unique<CacheCuller>(say, keeper_->DuplicateTree());
  filler_ = std::make_shared<CacheFiller>(
      keeper_->journal(), *keeper_->objects(), options_.blobs_dir,
      CacheFiller::Copies{[this] { return culler_->MakeRoom(kRoomBytes) > 0; },
                          [this](const std::string& name, const std::vector<ByteRange>& ranges) {
                            return culler_->Drop(name, ranges);
                          }},
      options_.cache_dir + "/doubts");
}

// The kernel's own copy is what its readers read.
TicketPump::Deliver Door::CacheDelivery() const {
  if (!filler_) return nullptr;
  return [weak = std::weak_ptr(filler_)](const keeper::SlotRead& read, TicketPump::Done done) {
    const std::shared_ptr<CacheFiller> filler = weak.lock();
    if (!filler) return std::move(done)(absl::CancelledError("the door has stopped"));
    filler->Fill(read.object, read.blob, {read.offset, read.length},
                 Instant(std::chrono::nanoseconds(keeper::OwnTimeNs(read.deadline_ns))), std::move(done));
  };
}

Door::Door(DoorOptions options, std::unique_ptr<KeeperClient> keeper)
    : options_(std::move(options)), keeper_(std::move(keeper)) {}

Door::~Door() {
  (void)Stop();
}

absl::Status Door::Stop() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(stopped_, true)) return absl::OkStatus();
  pump_->Stop();
  // Detaching the mirrors would clear the bits that the keeper goes on to answer from while we are away.
  keeper_->journal()->KeepMapped();
  absl::Status detached = keeper_->Detach();
  // After that, so that what it gives up waits for the next daemon; before the blobs' files may go. A ticket
  // that is completed now may keep the filler alive for longer than what it works with.
  if (filler_) filler_->Stop();
  return detached;
}

absl::Status Door::GuardBlob(std::shared_ptr<Blob> blob, int file_fd) {
  struct stat status {};
  if (fstat(file_fd, &status) != 0) {
    return absl::UnavailableError(
        absl::StrCat("inspect the file of blob ", blob->key().Short(), ": ", std::strerror(errno)));
  }
  const BlobFile file{.key = blob->key(),
                      .size = blob->geometry().size(),
                      .chunk_size = blob->geometry().chunk_size(),
                      .device = status.st_dev,
                      .inode = status.st_ino};
  const std::lock_guard lock(mutex_);
  if (stopped_) return absl::CancelledError("the door has stopped");
  if (guarded_.contains(blob->key())) return absl::OkStatus();
  const bool inherited = keeper_->FindEntry(blob->key()).has_value();
  const absl::StatusOr<BlobEntry> entry = keeper_->Guard(file);
  if (!entry.ok()) return entry.status();
  const BlobKey key = blob->key();
  // The bits first: they say what may be read whatever fails from here on.
  blob->presence().Attach(keeper_->Mirror(*entry));
  const bool complete = blob->presence().complete();
  Blob::Lease lease(std::move(blob), Blob::Lease::OfFile::kYes);
  guarded_.emplace(key, std::make_unique<Guarded>(Guarded{std::move(lease), *entry}));
  // A predecessor may have known of more than we can prove, or have taken back what it told nobody of.
  const bool doubted = filler_ ? filler_->InDoubt(entry->value()) : inherited && !complete;
  return doubted ? TakeBack(*entry) : absl::OkStatus();
}

absl::Status Door::UnguardBlob(const BlobKey& key) {
  const std::lock_guard mounting(mount_mutex_);
  const std::lock_guard lock(mutex_);
  const auto found = guarded_.find(key);
  if (stopped_) return absl::OkStatus();
  if (found == guarded_.end()) {
    const std::optional<BlobEntry> inherited = keeper_->FindEntry(key);
    return inherited ? keeper_->Unguard(*inherited) : absl::OkStatus();
  }
  const absl::Status status = keeper_->Unguard(found->second->entry);
  if (absl::IsFailedPrecondition(status)) return status;
  // Also if the answer was lost: the keeper may have given the entry to another blob, whose bits are not ours
  // to set.
  found->second->lease.blob().presence().Detach();
  guarded_.erase(found);
  return status;
}

std::vector<BlobKey> Door::GuardedBlobs() const {
  return keeper_->GuardedBlobs();
}

absl::Status Door::OnBlobComplete(const BlobKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = guarded_.find(key);
  if (stopped_ || found == guarded_.end()) return absl::OkStatus();
  if (filler_) filler_->Wake();
  // Only fanotify's events can be taken off; and calls wait for a mount that is being made.
  if (options_.backend != Backend::kFanotify) return absl::OkStatus();
  const Blob& blob = found->second->lease.blob();
  if (!blob.presence().complete() || blob.refused()) return absl::OkStatus();
  if (absl::Status marked = keeper_->MarkComplete(found->second->entry); !marked.ok()) return marked;
  // A chunk may have been revoked while the mark was on its way; its OnBlobRevoked waits for our mutex, or
  // came before the mark.
  if (blob.presence().complete() && !blob.refused()) return absl::OkStatus();
  return keeper_->ClearComplete(found->second->entry);
}

absl::Status Door::OnBlobRevoked(const BlobKey& key) {
  return RefuseBlob(key);
}

// REQUIRES: mutex_ is held
absl::Status Door::TakeBack(BlobEntry entry) {
  return filler_ ? filler_->Revoke(entry.value()) : keeper_->ClearComplete(entry);
}

absl::Status Door::RefuseBlob(const BlobKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = guarded_.find(key);
  if (stopped_) return absl::UnavailableError("the door has stopped");
  return found != guarded_.end() ? TakeBack(found->second->entry) : TakeBackInherited(key);
}

// REQUIRES: mutex_ is held
absl::Status Door::TakeBackInherited(const BlobKey& key) {
  const std::optional<BlobEntry> entry = keeper_->FindEntry(key);
  if (!entry) return absl::OkStatus();
  for (PresenceMap::Word& word : keeper_->Mirror(*entry)) word.store(0, std::memory_order_seq_cst);
  return TakeBack(*entry);
}

absl::StatusOr<BlobEntry> Door::EntryOf(const BlobKey& key) const {
  const auto found = guarded_.find(key);
  if (found != guarded_.end()) return found->second->entry;
  return absl::FailedPreconditionError(absl::StrCat("blob ", key.Short(), " is not guarded"));
}

absl::Status Door::MountImage(const MountRequest& request) {
  const absl::StatusOr<MountPoint> mount_point = OpenMountPoint(request.mount_point);
  if (!mount_point.ok()) return mount_point.status();

  // Held throughout: none of the devices may be unguarded meanwhile.
  const std::lock_guard mounting(mount_mutex_);
  std::unique_lock lock(mutex_);
  if (stopped_) return absl::CancelledError("the door has stopped");
  KeeperClient::Image image{request.bootstrap_path, {}, {}, options_.domain, request.label, request.flags};
  if (GuardsBootstrap()) {
    const absl::StatusOr<BlobEntry> entry = EntryOf(request.bootstrap);
    if (!entry.ok()) return entry.status();
    image.bootstrap = *entry;
  }
  for (const BlobKey& key : request.devices) {
    const absl::StatusOr<BlobEntry> entry = EntryOf(key);
    if (!entry.ok()) return entry.status();
    image.devices.push_back(*entry);
  }
  // What is told to the door of blobs must not wait for the mount, whose reads may wait for that.
  lock.unlock();
  absl::Status mounted = keeper_->Mount(image, *mount_point);
  if (mounted.ok()) return mounted;
  return absl::Status(mounted.code(), absl::StrCat("mount ", request.label, " at ", request.mount_point, ": ",
                                                   mounted.message()));
}

absl::Status Door::DiscardKernelCopies(const BlobKey& key) {
  if (!culler_) return absl::OkStatus();
  // A copy has no name before it was closed for the first time, and is given one some time after.
  const std::string name = key.FileName();
  for (int look = 0; look < kDiscardLooks; ++look) {
    if (look > 0) std::this_thread::sleep_for(kDiscardPause);
    if (keeper_->objects()->IsOpen(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat("the kernel's copy of blob ", key.Short(), " is in use"));
    }
    if (absl::Status discarded = culler_->Discard(key); !discarded.ok()) return discarded;
  }
  filler_->OnDiscarded(key);
  return absl::OkStatus();
}

uint64_t Door::KernelCacheBytes() {
  return culler_ ? culler_->Size() : 0;
}

absl::Status Door::UnmountImage(const std::string& mount_point) {
  return keeper_->Unmount(mount_point);
}

absl::Status Door::DetachImage(const std::string& mount_point) {
  return keeper_->DetachMount(mount_point);
}

absl::Status Door::RefuseReads() {
  return keeper_->RefuseReads();
}

absl::StatusOr<std::vector<MountedImage>> Door::Mounts() {
  return keeper_->ListMounts();
}

absl::Status Door::AdoptOrphan(const ErofsInstance& instance, const std::vector<BlobKey>& blobs) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return absl::CancelledError("the door has stopped");
  std::vector<BlobEntry> entries;
  for (const BlobKey& key : blobs) {
    const absl::StatusOr<BlobEntry> entry = EntryOf(key);
    if (!entry.ok()) return entry.status();
    entries.push_back(*entry);
  }
  return keeper_->AdoptOrphan(instance, entries);
}

HitCounts Door::Hits(const BlobKey& key) const {
  const std::lock_guard lock(mutex_);
  const auto guarded = guarded_.find(key);
  return guarded == guarded_.end() ? HitCounts{} : keeper_->hits(guarded->second->entry);
}

bool Door::TakeTouched(const BlobKey& key, ChunkSet& touched) {
  const std::lock_guard lock(mutex_);
  const auto guarded = guarded_.find(key);
  return guarded == guarded_.end() || keeper_->TakeTouched(guarded->second->entry, touched);
}

absl::Status Door::Status() const {
  if (absl::Status keeper = keeper_->KeeperStatus(); !keeper.ok()) return keeper;
  const int error = keeper_->kernel_error();
  if (error == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the kernel's side of ", std::string(BackendName(options_.backend)), " is gone (",
                   std::string(std::strerror(error)), "): unmount all images, then restart sluiced"));
}

KeeperCounters Door::counters() const {
  return keeper_->counters();
}
uint64_t Door::keepers_replaced() const {
  return keeper_->keepers_replaced();
}
int32_t Door::keeper_pid() const {
  return keeper_->keeper_pid();
}

}  // namespace sluice::ondemand
