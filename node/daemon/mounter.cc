#include "node/daemon/mounter.h"

#include <spdlog/spdlog.h>
#include <sys/mount.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "ondemand/erofs_image.h"
#include "ondemand/mount_point.h"

namespace sluice {
namespace {

constexpr uint64_t kBootstrapBytesMax = uint64_t{4} << 30;
constexpr char kBackend[] = "fanotify";
// The keeper refuses the read at the ticket's deadline; an answer should be there before.
constexpr Duration kAnswerMargin = std::chrono::milliseconds(100);

absl::Status NoDoor() {
  return absl::FailedPreconditionError(
      "no kernel backend works on this host, so nothing can be mounted; \"sluice doctor\" says what is "
      "missing");
}

}  // namespace

// Keeps a mount point from being worked on by two calls at once.
class Mounter::Reservation {
 public:
  Reservation(Mounter& mounter, std::string mount_point)
      : mounter_(mounter), mount_point_(std::move(mount_point)) {
    std::lock_guard lock(mounter_.mutex_);
    taken_ = mounter_.busy_.insert(mount_point_).second;
  }
  ~Reservation() {
    if (!taken_) return;
    std::lock_guard lock(mounter_.mutex_);
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

absl::Status Mounter::Recover() {
  for (const MountEntry& entry : table_.entries()) {
    const absl::StatusOr<std::shared_ptr<Blob>> bootstrap = parts_.store.Open(entry.bootstrap);
    if (!bootstrap.ok()) return bootstrap.status();
    bootstraps_.emplace(entry.mount_point, Blob::Lease(*bootstrap));
    for (const BlobSpec& spec : entry.blobs) {
      const absl::StatusOr<std::shared_ptr<Blob>> blob = parts_.store.Open(spec);
      if (!blob.ok()) return blob.status();
      BlobUse& use = uses_[spec.digest];
      use.blob = *blob;
      ++use.mounts;
    }
  }
  return absl::OkStatus();
}

absl::Status Mounter::OpenDoor(ondemand::FanotifyDoorOptions options) {
  absl::StatusOr<std::unique_ptr<ondemand::FanotifyDoor>> door = ondemand::FanotifyDoor::Start(
      std::move(options), [this](ondemand::ReadTicket ticket) { OnTicket(std::move(ticket)); });
  if (!door.ok()) return door.status();
  {
    std::lock_guard lock(mutex_);
    door_ = *std::move(door);
  }
  return ReconcileMounts();
}

absl::Status Mounter::ReconcileMounts() {
  const absl::StatusOr<std::vector<ondemand::MountedImage>> watched = door_->Mounts();
  if (!watched.ok()) return watched.status();
  const absl::StatusOr<std::vector<ondemand::MountInfo>> present = ondemand::ReadMountInfo();
  if (!present.ok()) return present.status();

  const std::vector<MountEntry> entries = table_.entries();
  for (const MountEntry& entry : entries) {
    const bool is_watched =
        std::any_of(watched->begin(), watched->end(),
                    [&](const ondemand::MountedImage& m) { return m.mount_point == entry.mount_point; });
    if (is_watched) {
      for (const BlobSpec& spec : entry.blobs) {
        const absl::Status guarded = Guard(spec);
        if (!guarded.ok()) return guarded;
      }
      spdlog::info("found {} again, mounted at {}", entry.reference, entry.mount_point);
      if (options_.fill_by_default) {
        for (const BlobSpec& spec : entry.blobs) StartFill(spec.digest, options_.fill_retry_first);
      }
      continue;
    }
    const std::string path = parts_.store.BlobPath(entry.bootstrap.digest);
    const bool is_present = std::any_of(present->begin(), present->end(), [&](const ondemand::MountInfo& m) {
      return m.mount_point == entry.mount_point && m.type == "erofs";
    });
    if (is_present) {
      spdlog::error(
          "ALARM: {} is mounted at {} but its keeper is gone: reads of absent bytes would give zeros. It is "
          "unmounted; restart what runs from it",
          entry.reference, entry.mount_point);
      if (umount2(entry.mount_point.c_str(), MNT_DETACH) != 0) {
        spdlog::error("cannot unmount {}: {}", entry.mount_point, std::strerror(errno));
      }
    } else {
      spdlog::info("{} is not mounted at {} any more", entry.reference, entry.mount_point);
    }
    Forget(entry.mount_point);
  }
  for (const ondemand::MountedImage& mount : *watched) {
    if (table_.Find(mount.mount_point)) continue;
    const absl::Status unmounted = door_->UnmountImage(mount.mount_point);
    spdlog::warn("{} was mounted at {} but not in the table of mounts; unmounting it: {}", mount.label,
                 mount.mount_point, unmounted.ToString());
  }
  parts_.telemetry.mounts.Set(static_cast<int64_t>(mount_count()));
  return absl::OkStatus();
}

void Mounter::Stop() {
  std::shared_ptr<ondemand::FanotifyDoor> door;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    door = std::exchange(door_, nullptr);
  }
  if (door) door->Stop();
}

// ------------------------------------------------------------------------------------- the kernel's reads

void Mounter::OnTicket(ondemand::ReadTicket ticket) {
  ReadRequest request{ticket.digest(), ticket.range(), FetchClass::kDemand,
                      ticket.deadline() - kAnswerMargin};
  parts_.cache.Read(request, [this, ticket = std::move(ticket)](absl::StatusOr<ReadResult> result) mutable {
    NoteServed(ticket.digest(), ticket.range().length, result);
    std::move(ticket).Complete(result.status());
  });
}

void Mounter::NoteServed(const Digest& digest, uint64_t length, const absl::StatusOr<ReadResult>& result) {
  (result.ok() ? parts_.telemetry.ondemand_filled : parts_.telemetry.ondemand_failed).Add();
  {
    std::lock_guard lock(mutex_);
    const auto found = uses_.find(digest);
    if (found != uses_.end()) {
      BlobUse& use = found->second;
      if (result.ok()) {
        use.served.reads[static_cast<size_t>(result->source)] += 1;
        use.served.bytes[static_cast<size_t>(result->source)] += length;
      } else {
        ++use.errors;
        use.last_error = std::string(result.status().message());
      }
    }
  }
  if (!result.ok())
    spdlog::error("a reader of blob {} gets EIO: {}", digest.ToString(), result.status().ToString());
}

void Mounter::OnBlobComplete(const std::shared_ptr<Blob>& blob) {
  std::shared_ptr<ondemand::FanotifyDoor> door;
  {
    std::lock_guard lock(mutex_);
    door = door_;
  }
  if (!door) return;
  const absl::Status status = door->OnBlobComplete(blob->digest());
  if (!status.ok())
    spdlog::warn("blob {} keeps its events though it is complete: {}", blob->digest().Short(),
                 status.ToString());
}

void Mounter::OnBlobRevoked(const Blob& blob) {
  std::shared_ptr<ondemand::FanotifyDoor> door;
  {
    std::lock_guard lock(mutex_);
    door = door_;
  }
  if (!door) return;
  const absl::Status status = door->OnBlobRevoked(blob.digest());
  if (!status.ok())
    spdlog::error("ALARM: blob {} may be read unasked: {}", blob.digest().ToString(), status.ToString());
}

// ------------------------------------------------------------------------------------------- mounting

absl::StatusOr<api::MountInfo> Mounter::Mount(const api::MountRequest& request) {
  {
    std::lock_guard lock(mutex_);
    if (!door_) return NoDoor();
  }
  const Reservation reservation(*this, request.mount_point);
  if (!reservation.status().ok()) return reservation.status();
  const absl::Status usable = ondemand::CheckMountPoint(request.mount_point);
  if (!usable.ok()) return usable;

  const absl::StatusOr<ResolvedImage> resolved = parts_.resolver.Resolve(request.reference);
  if (!resolved.ok()) return resolved.status();
  const p2p::Descriptor& bootstrap = resolved->image.bootstrap;
  if (bootstrap.size > kBootstrapBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the bootstrap of ", request.reference, " has ",
                                                   bootstrap.size, " bytes; at most ", kBootstrapBytesMax,
                                                   " are taken"));
  }
  MountEntry entry{request.mount_point,
                   resolved->reference.ToString(),
                   resolved->manifest,
                   kBackend,
                   BlobSpec{bootstrap.digest,
                            bootstrap.size,
                            ChunkGeometry::ChunkSizeFor(bootstrap.size),
                            {},
                            {resolved->reference.origin}},
                   resolved->image.blobs};
  const std::string unproven = parts_.resolver.FetchRecipes(*resolved);
  if (!unproven.empty())
    spdlog::warn("{}: chunks are served unverified until their blob is whole: {}", entry.reference, unproven);

  const Instant deadline = std::min(request.deadline, parts_.clock.Now() + options_.bootstrap_timeout);
  const absl::StatusOr<std::string> path = PrepareBootstrap(entry.bootstrap, entry.blobs, deadline);
  if (!path.ok()) return path.status();
  const absl::Status mounted = MountPrepared(entry, *path);
  if (!mounted.ok()) return mounted;

  const bool fill = request.fill == api::FillMode::kBackground ||
                    (request.fill == api::FillMode::kDefault && options_.fill_by_default);
  for (const BlobSpec& spec : entry.blobs) {
    if (fill) StartFill(spec.digest, options_.fill_retry_first);
  }
  parts_.telemetry.mounts.Set(static_cast<int64_t>(mount_count()));
  spdlog::info("mounted {} at {}{}", entry.reference, entry.mount_point,
               fill ? ", filling it in the background" : "");
  std::lock_guard lock(mutex_);
  return Describe(entry);
}

absl::StatusOr<std::string> Mounter::PrepareBootstrap(const BlobSpec& spec,
                                                      const std::vector<BlobSpec>& blobs, Instant deadline) {
  const absl::StatusOr<std::shared_ptr<Blob>> blob = parts_.store.Open(spec);
  if (!blob.ok()) return blob.status();
  const Blob::Lease lease(*blob);
  if (!parts_.store.IsSettled(spec.digest)) {
    auto filled = std::make_shared<std::promise<absl::Status>>();
    std::future<absl::Status> result = filled->get_future();
    parts_.cache.Fill(spec.digest, [filled](absl::Status status) { filled->set_value(std::move(status)); });
    if (result.wait_until(deadline) != std::future_status::ready) {
      return absl::DeadlineExceededError(
          absl::StrCat("bootstrap ", spec.digest.ToString(), " did not arrive in time"));
    }
    const absl::Status status = result.get();
    if (!status.ok()) return status;
    const absl::StatusOr<index::VerifyReport> report = parts_.store.Verify(spec.digest, parts_.verifier);
    if (!report.ok()) return report.status();
    if (report->bad > 0 || report->unverifiable > 0) {
      return absl::DataLossError(
          absl::StrCat("bootstrap ", spec.digest.ToString(), " does not match its digest"));
    }
  }
  std::string path = parts_.store.BlobPath(spec.digest);
  const absl::StatusOr<ondemand::ErofsInfo> info = ondemand::ReadErofsInfo(path);
  if (!info.ok()) return info.status();
  const absl::Status devices = ondemand::CheckErofsDevices(*info, blobs);
  if (!devices.ok()) return devices;
  return path;
}

absl::Status Mounter::Guard(const BlobSpec& spec) {
  const absl::StatusOr<std::shared_ptr<Blob>> blob = parts_.store.Open(spec);
  if (!blob.ok()) return blob.status();
  if ((*blob)->refused()) {
    return absl::DataLossError(absl::StrCat("blob ", spec.digest.ToString(),
                                            " did not match its digest; \"sluice blob evict ",
                                            spec.digest.ToString(), "\" lets it be fetched anew"));
  }
  const absl::StatusOr<index::FileDescriptor> file = parts_.store.OpenForRead(spec.digest);
  if (!file.ok()) return file.status();
  std::lock_guard guard(guard_mutex_);
  const absl::Status guarded = door_->GuardBlob(*blob, file->get());
  if (guarded.ok() && parts_.store.IsSettled(spec.digest)) return door_->OnBlobComplete(spec.digest);
  return guarded;
}

void Mounter::Unguard(const std::vector<BlobSpec>& specs) {
  std::lock_guard guard(guard_mutex_);
  for (const BlobSpec& spec : specs) {
    {
      std::lock_guard lock(mutex_);
      const auto found = uses_.find(spec.digest);
      if (found == uses_.end() || --found->second.mounts > 0) continue;
      uses_.erase(found);
    }
    const absl::Status status = door_->UnguardBlob(spec.digest);
    if (!status.ok()) spdlog::warn("blob {} stays guarded: {}", spec.digest.Short(), status.ToString());
  }
}

absl::Status Mounter::MountPrepared(const MountEntry& entry, const std::string& bootstrap_path) {
  ondemand::MountRequest request{bootstrap_path, {}, entry.mount_point, entry.reference};
  absl::Status status;
  std::vector<BlobSpec> guarded;
  for (const BlobSpec& spec : entry.blobs) {
    {
      std::lock_guard lock(mutex_);
      BlobUse& use = uses_[spec.digest];
      use.blob = parts_.store.Find(spec.digest);
      ++use.mounts;
    }
    guarded.push_back(spec);
    status = Guard(spec);
    if (!status.ok()) break;
    request.devices.push_back(spec.digest);
  }
  if (status.ok()) {
    std::lock_guard lock(mutex_);
    for (const BlobSpec& spec : entry.blobs) uses_[spec.digest].blob = parts_.store.Find(spec.digest);
    status = table_.Add(entry);
    if (status.ok())
      bootstraps_.emplace(entry.mount_point, Blob::Lease(parts_.store.Find(entry.bootstrap.digest)));
  }
  if (status.ok()) {
    status = door_->MountImage(request);
    if (status.ok()) return status;
    std::lock_guard lock(mutex_);
    const absl::Status removed = table_.Remove(entry.mount_point);
    if (!removed.ok()) spdlog::warn("{}", removed.ToString());
    bootstraps_.erase(entry.mount_point);
  }
  Unguard(guarded);
  return status;
}

absl::Status Mounter::Unmount(const std::string& mount_point) {
  {
    std::lock_guard lock(mutex_);
    if (!door_) return NoDoor();
    if (!table_.Find(mount_point)) {
      return absl::NotFoundError(absl::StrCat("nothing of sluice's is mounted at ", mount_point));
    }
  }
  const Reservation reservation(*this, mount_point);
  if (!reservation.status().ok()) return reservation.status();
  const absl::Status unmounted = door_->UnmountImage(mount_point);
  // One that somebody else unmounted is gone all the same.
  if (!unmounted.ok() && !absl::IsNotFound(unmounted)) return unmounted;
  Forget(mount_point);
  spdlog::info("unmounted {}", mount_point);
  return absl::OkStatus();
}

void Mounter::Forget(const std::string& mount_point) {
  std::vector<BlobSpec> blobs;
  {
    std::lock_guard lock(mutex_);
    const MountEntry* entry = table_.Find(mount_point);
    if (!entry) return;
    blobs = entry->blobs;
    const absl::Status removed = table_.Remove(mount_point);
    if (!removed.ok())
      spdlog::warn("{} is unmounted but stays in the table of mounts until the next start: {}", mount_point,
                   removed.ToString());
    bootstraps_.erase(mount_point);
    parts_.telemetry.mounts.Set(static_cast<int64_t>(table_.entries().size()));
  }
  Unguard(blobs);
}

// ---------------------------------------------------------------------------------------------- fills

void Mounter::StartFill(const Digest& digest, Duration retry_after) {
  {
    std::lock_guard lock(mutex_);
    const auto found = uses_.find(digest);
    if (stopped_ || found == uses_.end()) return;  // unmounted meanwhile
    found->second.fill = api::FillState::kFilling;
  }
  parts_.cache.Fill(digest, [this, digest, retry_after](absl::Status status) {
    {
      std::lock_guard lock(mutex_);
      const auto found = uses_.find(digest);
      if (stopped_ || found == uses_.end()) return;
      found->second.fill = status.ok() ? api::FillState::kComplete : api::FillState::kFailed;
      found->second.fill_error = std::string(status.message());
    }
    if (status.ok()) {
      spdlog::info("blob {} is complete", digest.ToString());
      return;
    }
    spdlog::warn("filling blob {} failed, trying again in {} ms: {}", digest.ToString(),
                 std::chrono::duration_cast<std::chrono::milliseconds>(retry_after).count(),
                 status.ToString());
    parts_.core.PostAt(parts_.clock.Now() + retry_after, [this, digest, retry_after] {
      StartFill(digest, std::min(retry_after * 2, options_.fill_retry_max));
    });
  });
}

// --------------------------------------------------------------------------------------------- reports

api::MountInfo Mounter::Describe(const MountEntry& entry) const {
  api::MountInfo info;
  info.reference = entry.reference;
  info.manifest_digest = entry.manifest;
  info.mount_point = entry.mount_point;
  info.backend = entry.backend;
  for (const BlobSpec& spec : entry.blobs) {
    const auto found = uses_.find(spec.digest);
    if (found == uses_.end()) continue;
    const BlobUse& use = found->second;
    info.blobs.push_back({spec.digest, spec.size, use.blob->present_bytes()});
    for (size_t source = 0; source < kSourceKindCount; ++source) {
      info.served.reads[source] += use.served.reads[source];
      info.served.bytes[source] += use.served.bytes[source];
    }
    if (door_) {
      const ondemand::HitCounts hits = door_->Hits(spec.digest);
      info.served.reads[static_cast<size_t>(SourceKind::kLocal)] += hits.reads;
      info.served.bytes[static_cast<size_t>(SourceKind::kLocal)] += hits.bytes;
    }
    info.read_errors += use.errors;
    if (!use.last_error.empty()) info.last_error = use.last_error;
  }
  return info;
}

absl::StatusOr<std::vector<api::MountInfo>> Mounter::ListMounts() {
  std::lock_guard lock(mutex_);
  std::vector<api::MountInfo> mounts;
  for (const MountEntry& entry : table_.entries()) mounts.push_back(Describe(entry));
  std::sort(mounts.begin(), mounts.end(),
            [](const auto& a, const auto& b) { return a.mount_point < b.mount_point; });
  return mounts;
}

absl::StatusOr<std::vector<api::FillProgress>> Mounter::GetFillProgress(const std::string& mount_point) {
  std::lock_guard lock(mutex_);
  const MountEntry* entry = table_.Find(mount_point);
  if (!entry) return absl::NotFoundError(absl::StrCat("nothing of sluice's is mounted at ", mount_point));
  std::vector<api::FillProgress> progress;
  for (const BlobSpec& spec : entry->blobs) {
    const auto found = uses_.find(spec.digest);
    if (found == uses_.end()) continue;
    const BlobUse& use = found->second;
    progress.push_back({{spec.digest, spec.size, use.blob->present_bytes()}, use.fill, use.fill_error});
  }
  return progress;
}

ondemand::KeeperCounters Mounter::keeper_counters() const {
  std::lock_guard lock(mutex_);
  return door_ ? door_->counters() : ondemand::KeeperCounters{};
}

size_t Mounter::mount_count() const {
  std::lock_guard lock(mutex_);
  return table_.entries().size();
}

}  // namespace sluice
