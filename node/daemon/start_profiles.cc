#include "node/daemon/start_profiles.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"

namespace sluice {
namespace {

uint64_t WallClockMs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

std::vector<uint32_t> ChunkCountsOf(const std::vector<std::shared_ptr<Blob>>& blobs) {
  std::vector<uint32_t> counts;
  for (const std::shared_ptr<Blob>& blob : blobs) counts.push_back(blob->geometry().chunk_count());
  return counts;
}

bool AllComplete(const std::vector<std::shared_ptr<Blob>>& blobs) {
  return std::all_of(blobs.begin(), blobs.end(),
                     [](const std::shared_ptr<Blob>& blob) { return blob->presence().complete(); });
}

// A start of an image, from the mount on.
struct Start {
  Start(std::string where, std::string its_reference, const Digest& its_manifest,
        std::vector<std::shared_ptr<Blob>> its_blobs, api::StartRecording how, Instant now)
      : mount_point(std::move(where)),
        reference(std::move(its_reference)),
        manifest(its_manifest),
        blobs(std::move(its_blobs)),
        touches(ChunkCountsOf(blobs)),
        recording(how),
        mounted(now),
        number(WallClockMs()) {
    for (uint32_t i = 0; i < blobs.size(); ++i) places.try_emplace(blobs[i]->key(), i);
  }

  const std::string mount_point;
  const std::string reference;
  const Digest manifest;
  const std::vector<std::shared_ptr<Blob>> blobs;
  absl::flat_hash_map<BlobKey, uint32_t> places;  // of the blobs; of one that the image has twice, the first
  FirstTouches touches;
  const api::StartRecording recording;
  const Instant mounted;
  const uint64_t number;
  std::optional<Instant> first_touch;
  bool watches = false;  // whole blobs are not read unasked
  bool watched = false;  // since the mount
  std::shared_ptr<ProfileReplay> replay;
};

}  // namespace

class StartProfiles::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(Parts parts, Options options) : parts_(std::move(parts)), options_(std::move(options)) {}

  std::optional<ImageProfile> Find(const Digest& manifest);
  void Resolved(const BlobOrigin& origin, const Digest& manifest);
  void Preparing(const std::string& mount_point, std::shared_ptr<Start> start);
  void Unmounted(const std::string& mount_point);
  void Demanded(const BlobKey& key, ByteRange range);
  bool Watches(const BlobKey& key);
  void Give(const Digest& manifest, OnProfile done);
  void Take(std::string text, const ProvenNames& proven, OnTaken done);
  void Stop();
  void AwaitEnded(const Digest& manifest, Instant deadline);
  void SetDrain(api::DrainState state);

  const Parts& parts() const { return parts_; }

 private:
  using Starts = std::vector<std::shared_ptr<Start>>;

  bool MayTell(const p2p::KeptProfile& kept) const {
    return options_.trust == PeerTrust::kProven || kept.access == p2p::ImageAccess::kPublic;
  }
  void AskRegistry(const BlobOrigin& origin, const Digest& manifest);
  void Asked(const Digest& manifest, std::optional<p2p::KeptProfile> kept);
  void Found(const p2p::KeptProfile& kept);
  // Whether it is recorded at all.
  bool Records(const Start& start) const {
    return options_.record > Duration(0) || start.recording == api::StartRecording::kWhileMounted;
  }
  // What is brought in ahead of a start that is recorded for its own sake is not seen where the keeper does
  // not see reads of what is present. REQUIRES: mutex_ is held
  bool MayReplay(const Start& start) const {
    return options_.replay && !drained_ && start.recording != api::StartRecording::kWhileMounted &&
           parts_.lacks_what_is_absent();
  }
  void Replay(Start& start, const ImageProfile& profile);
  using Touch = StartReports::Touch;
  void Note(Start& start, uint32_t blob, ChunkSpan chunks, Touch touch, Instant now);
  void NoteAll(Start& start, uint32_t blob, const ChunkSet& touched, Instant now);
  bool WatchesLocked(const BlobKey& key) const;
  void LookLater();
  void Look();
  void LookAtPresentReads(Instant now);
  bool IsOver(const Start& start, Instant now) const;
  void Unwatch(const Starts& starts);
  void End(const std::shared_ptr<Start>& start);
  void Keep(const Start& start);

  const Parts parts_;
  const Options options_;
  std::atomic<size_t> start_count_{0};
  std::atomic<int> taking_{0};

  std::mutex look_mutex_;  // locked before mutex_

  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, std::shared_ptr<Start>> starts_;  // by mount point
  absl::flat_hash_set<Digest> asking_;                    // manifests that other nodes are asked for
  absl::flat_hash_map<Digest, int> ending_;               // starts that are over and not kept yet
  bool looks_ = false;
  bool stopped_ = false;
  bool drained_ = false;
  std::condition_variable kept_;  // one of ending_ is
};

// ------------------------------------------------------------------------------------------------- replay

void StartProfiles::Core::Resolved(const BlobOrigin& origin, const Digest& manifest) {
  if (!options_.replay || (parts_.exchange == nullptr && parts_.attached == nullptr)) return;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_ || !asking_.insert(manifest).second) return;
  }
  if (parts_.exchange == nullptr) return AskRegistry(origin, manifest);
  parts_.exchange->Fetch(
      manifest, [core = shared_from_this(), origin, manifest](std::optional<p2p::KeptProfile> kept) mutable {
        if (kept) return core->Asked(manifest, std::move(kept));
        core->parts_.io.Post([core, origin, manifest] { core->AskRegistry(origin, manifest); });
      });
}

// Of the registry only what nobody knows: what was pushed with an image is older than what nodes have seen.
void StartProfiles::Core::AskRegistry(const BlobOrigin& origin, const Digest& manifest) {
  if (parts_.attached == nullptr || parts_.profiles.Get(manifest).ok()) return Asked(manifest, std::nullopt);
  parts_.attached->Fetch(origin, manifest,
                         [core = shared_from_this(), manifest](std::optional<p2p::KeptProfile> kept) mutable {
                           core->Asked(manifest, std::move(kept));
                         });
}

void StartProfiles::Core::Asked(const Digest& manifest, std::optional<p2p::KeptProfile> kept) {
  parts_.io.Post([core = shared_from_this(), manifest, kept = std::move(kept)] {
    {
      const std::lock_guard lock(core->mutex_);
      core->asking_.erase(manifest);
    }
    if (kept) core->Found(*kept);
  });
}

std::optional<ImageProfile> StartProfiles::Core::Find(const Digest& manifest) {
  if (parts_.exchange != nullptr) {
    const auto came = std::make_shared<std::promise<std::optional<p2p::KeptProfile>>>();
    std::future<std::optional<p2p::KeptProfile>> coming = came->get_future();
    parts_.exchange->Fetch(
        manifest, [came](std::optional<p2p::KeptProfile> kept) mutable { came->set_value(std::move(kept)); });
    if (coming.wait_for(2 * p2p::ProfileExchange::kTimeout) == std::future_status::ready) {
      if (const std::optional<p2p::KeptProfile> kept = coming.get()) Found(*kept);
    }
  }
  absl::StatusOr<p2p::KeptProfile> known = parts_.profiles.Get(manifest);
  if (!known.ok()) return std::nullopt;
  return std::move(known->profile);
}

void StartProfiles::Core::Found(const p2p::KeptProfile& kept) {
  if (const absl::Status offered = parts_.profiles.Offer(kept); !offered.ok())
    spdlog::warn("a profile is not kept: {}", offered.ToString());
  const std::lock_guard lock(mutex_);
  if (stopped_) return;
  for (const auto& [mount_point, start] : starts_) {
    if (start->manifest == kept.manifest && !start->replay && MayReplay(*start)) Replay(*start, kept.profile);
  }
}

void StartProfiles::Core::SetDrain(api::DrainState state) {
  const std::lock_guard lock(mutex_);
  drained_ = state == api::DrainState::kDrained;
  if (!drained_) return;
  for (const auto& [mount_point, start] : starts_) {
    if (start->replay) parts_.core.Post([replay = start->replay] { replay->End(); });
  }
}

// REQUIRES: mutex_ is held
void StartProfiles::Core::Replay(Start& start, const ImageProfile& profile) {
  for (const ProfileSpan& span : profile.spans)
    parts_.reports.Foreseen(start.mount_point, span.blob, span.chunks);
  start.replay =
      std::make_shared<ProfileReplay>(parts_.cache, parts_.telemetry, start.blobs, profile, options_.limits);
  parts_.core.Post([replay = start.replay, touched = start.touches.start().spans] {
    for (const ProfileSpan& span : touched) replay->Touched(span.blob, span.chunks);
    replay->Begin();
  });
}

// --------------------------------------------------------------------------------------------- recording

void StartProfiles::Core::Preparing(const std::string& mount_point, std::shared_ptr<Start> start) {
  const absl::StatusOr<p2p::KeptProfile> known = parts_.profiles.Get(start->manifest);
  const bool sees_all = parts_.sees_present_reads();
  const bool enough = known.ok() && known->profile.runs >= kStartsEnough && AllComplete(start->blobs);
  for (uint32_t i = 0; i < start->blobs.size(); ++i) {
    const Blob& blob = *start->blobs[i];
    // What was read before is no part of this start.
    ChunkSet earlier(blob.geometry().chunk_count());
    const bool told = parts_.take_touched(blob.key(), earlier);
    // What is whole another mount may have had read unasked already.
    if (!told || !sees_all || blob.presence().complete()) start->touches.SetBlind(i);
  }
  std::shared_ptr<Start> replaced;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    const bool for_itself = start->recording == api::StartRecording::kWhileMounted;
    start->watches = start->watched = Records(*start) && sees_all && (for_itself || !enough);
    if (known.ok() && MayReplay(*start)) Replay(*start, known->profile);
    replaced = std::exchange(starts_[mount_point], std::move(start));
    if (replaced) ++ending_[replaced->manifest];
    start_count_ = starts_.size();
    if (!std::exchange(looks_, true)) LookLater();
  }
  if (replaced) End(replaced);
}

void StartProfiles::Core::Unmounted(const std::string& mount_point) {
  // As long as the keeper still knows what it has read last.
  LookAtPresentReads(parts_.clock.Now());
  std::shared_ptr<Start> start;
  {
    const std::lock_guard lock(mutex_);
    const auto found = starts_.find(mount_point);
    if (found == starts_.end()) return;
    start = std::move(found->second);
    ++ending_[start->manifest];
    starts_.erase(found);
    start_count_ = starts_.size();
  }
  // Not on this thread, which may hold what End asks for.
  parts_.io.Post([core = shared_from_this(), start] { core->End(start); });
}

void StartProfiles::Core::Demanded(const BlobKey& key, ByteRange range) {
  if (start_count_ == 0) return;
  const Instant now = parts_.clock.Now();
  const std::lock_guard lock(mutex_);
  for (const auto& [mount_point, start] : starts_) {
    const auto place = start->places.find(key);
    if (place == start->places.end()) continue;
    const ChunkGeometry& geometry = start->blobs[place->second]->geometry();
    if (range.length > 0 && range.end() <= geometry.size())
      Note(*start, place->second, geometry.Covering(range), Touch::kWaits, now);
  }
}

// REQUIRES: mutex_ is held
void StartProfiles::Core::Note(Start& start, uint32_t blob, ChunkSpan chunks, Touch touch, Instant now) {
  if (!start.first_touch) start.first_touch = now;
  start.touches.Note(blob, chunks, now - *start.first_touch, [&](ChunkSpan fresh) {
    parts_.reports.Touched(start.mount_point, *start.blobs[blob], fresh, touch);
    if (!start.replay) return;
    parts_.core.Post([replay = start.replay, blob, fresh] { replay->Touched(blob, fresh); });
  });
}

// REQUIRES: mutex_ is held
void StartProfiles::Core::NoteAll(Start& start, uint32_t blob, const ChunkSet& touched, Instant now) {
  const ChunkIndex end(touched.chunk_count());
  for (ChunkIndex at = touched.NextSet({ChunkIndex(0), end.value()}); at < end;) {
    const ChunkIndex next = touched.NextClear({at, end.value() - at.value()});
    Note(start, blob, {at, next.value() - at.value()}, Touch::kPasses, now);
    at = touched.NextSet({next, end.value() - next.value()});
  }
}

bool StartProfiles::Core::Watches(const BlobKey& key) {
  const std::lock_guard lock(mutex_);
  return WatchesLocked(key);
}

// REQUIRES: mutex_ is held
bool StartProfiles::Core::WatchesLocked(const BlobKey& key) const {
  return std::any_of(starts_.begin(), starts_.end(), [&](const auto& entry) {
    return entry.second->watches && entry.second->places.contains(key);
  });
}

// REQUIRES: mutex_ is held
void StartProfiles::Core::LookLater() {
  parts_.io.PostAt(parts_.clock.Now() + kLookInterval, [core = shared_from_this()] { core->Look(); });
}

void StartProfiles::Core::Look() {
  const Instant now = parts_.clock.Now();
  LookAtPresentReads(now);
  Starts over, unwatched;
  {
    const std::lock_guard lock(mutex_);
    for (auto at = starts_.begin(); at != starts_.end();) {
      const std::shared_ptr<Start>& start = at->second;
      if (IsOver(*start, now)) {
        over.push_back(start);
        ++ending_[start->manifest];
        at = starts_.erase(at);
        continue;
      }
      if (start->watches && start->recording != api::StartRecording::kWhileMounted &&
          now - start->mounted >= kWatchMax) {
        start->watches = false;
        for (uint32_t i = 0; i < start->blobs.size(); ++i) {
          if (start->blobs[i]->presence().complete()) start->touches.SetBlind(i);
        }
        unwatched.push_back(start);
      }
      ++at;
    }
    start_count_ = starts_.size();
    looks_ = !starts_.empty() && !stopped_;
    if (looks_) LookLater();
  }
  Unwatch(unwatched);
  for (const std::shared_ptr<Start>& start : over) End(start);
}

// What the keeper has let pass is asked for once, whoever starts.
void StartProfiles::Core::LookAtPresentReads(Instant now) {
  // What one has taken is noted before the next finds nothing.
  const std::lock_guard looking(look_mutex_);
  std::map<BlobKey, ChunkSet> touched;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [mount_point, start] : starts_) {
      for (const std::shared_ptr<Blob>& blob : start->blobs)
        touched.try_emplace(blob->key(), blob->geometry().chunk_count());
    }
  }
  for (auto& [key, chunks] : touched) {
    parts_.take_touched(key, chunks);
    if (!chunks.empty()) parts_.cache.NoteTouched(key, chunks);
  }
  const std::lock_guard lock(mutex_);
  for (const auto& [mount_point, start] : starts_) {
    for (const auto& [key, place] : start->places) {
      const auto found = touched.find(key);
      if (found != touched.end() && !found->second.empty()) NoteAll(*start, place, found->second, now);
    }
  }
}

bool StartProfiles::Core::IsOver(const Start& start, Instant now) const {
  if (start.recording == api::StartRecording::kWhileMounted) return false;
  if (!start.first_touch) return now - start.mounted >= kFirstTouchMax;
  // Without a recording a replay still is to hear what is read.
  return now - *start.first_touch >= (options_.record > Duration(0) ? options_.record : kWatchMax);
}

// What was not marked while these were watched is now.
void StartProfiles::Core::Unwatch(const Starts& starts) {
  for (const std::shared_ptr<Start>& start : starts) {
    for (const std::shared_ptr<Blob>& blob : start->blobs) {
      if (blob->presence().complete() && !Watches(blob->key())) parts_.unwatched(blob);
    }
  }
}

// REQUIRES: it is counted among ending_
void StartProfiles::Core::End(const std::shared_ptr<Start>& start) {
  if (start->replay) parts_.core.Post([replay = start->replay] { replay->End(); });
  if (start->watches) Unwatch({start});
  if (start->watched && !start->touches.empty() && parts_.on_watched)
    parts_.on_watched(start->blobs, start->touches.start());
  Keep(*start);
  const std::lock_guard lock(mutex_);
  const auto found = ending_.find(start->manifest);
  if (--found->second == 0) ending_.erase(found);
  kept_.notify_all();
}

void StartProfiles::Core::AwaitEnded(const Digest& manifest, Instant deadline) {
  std::unique_lock lock(mutex_);
  kept_.wait_for(lock, std::min(deadline - parts_.clock.Now(), Duration(kKeepMax)),
                 [&] { return stopped_ || !ending_.contains(manifest); });
}

void StartProfiles::Core::Keep(const Start& start) {
  if (!Records(start) || start.touches.empty()) return;
  const bool is_public = parts_.is_public(start.reference, start.manifest);
  const p2p::StartRecord record{start.manifest, options_.recorder, start.number,
                                is_public ? p2p::ImageAccess::kPublic : p2p::ImageAccess::kPrivate,
                                start.touches.start()};
  parts_.telemetry.profile_recordings.Add();
  if (const absl::StatusOr<bool> merged = parts_.profiles.Merge(record); !merged.ok())
    spdlog::warn("what a start of {} has read is not kept: {}", start.reference, merged.status().ToString());
  if (parts_.exchange != nullptr && (is_public || options_.trust == PeerTrust::kProven))
    parts_.exchange->Send(record);
}

void StartProfiles::Core::Stop() {
  std::map<std::string, std::shared_ptr<Start>> starts;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    starts.swap(starts_);
    start_count_ = 0;
  }
  kept_.notify_all();
  for (const auto& [mount_point, start] : starts) {
    if (start->replay) parts_.core.Post([replay = start->replay] { replay->End(); });
    Keep(*start);
  }
}

// ------------------------------------------------------------------------------------------ other nodes

void StartProfiles::Core::Give(const Digest& manifest, OnProfile done) {
  parts_.io.Post([core = shared_from_this(), manifest, done = std::move(done)]() mutable {
    const absl::StatusOr<p2p::KeptProfile> kept = core->parts_.profiles.Get(manifest);
    // Whoever guesses digests learns nothing of what is private.
    if (!kept.ok() || !core->MayTell(*kept)) return std::move(done)(absl::NotFoundError("it is not here"));
    std::move(done)(p2p::FormatKept(*kept));
  });
}

void StartProfiles::Core::Take(std::string text, const ProvenNames& proven, OnTaken done) {
  if (parts_.exchange == nullptr) return std::move(done)(absl::InvalidArgumentError("not from a member"));
  absl::StatusOr<p2p::StartRecord> record = parts_.exchange->Accept(text, proven);
  if (!record.ok()) return std::move(done)(record.status());
  if (++taking_ > kTakenAtOnceMax) {
    --taking_;
    return std::move(done)(absl::ResourceExhaustedError("too many records are being kept"));
  }
  parts_.io.Post([core = shared_from_this(), record = *std::move(record), done = std::move(done)]() mutable {
    const absl::StatusOr<bool> merged = core->parts_.profiles.Merge(record);
    --core->taking_;
    std::move(done)(merged.status());
  });
}

// ------------------------------------------------------------------------------------------------ facade

StartProfiles::StartProfiles(Parts parts, Options options)
    : core_(std::make_shared<Core>(std::move(parts), std::move(options))) {}

StartProfiles::~StartProfiles() {
  Stop();
}

void StartProfiles::Stop() {
  core_->Stop();
}

std::optional<ImageProfile> StartProfiles::Find(const Digest& manifest) {
  return core_->Find(manifest);
}

void StartProfiles::AwaitEnded(const Digest& manifest, Instant deadline) {
  core_->AwaitEnded(manifest, deadline);
}

void StartProfiles::SetDrain(api::DrainState state) {
  core_->SetDrain(state);
}

void StartProfiles::Resolved(const BlobOrigin& origin, const Digest& manifest) {
  core_->Resolved(origin, manifest);
}

void StartProfiles::Preparing(const std::string& mount_point, const std::string& reference,
                              const Digest& manifest, const std::vector<std::shared_ptr<Blob>>& blobs,
                              api::StartRecording recording) {
  core_->Preparing(mount_point, std::make_shared<Start>(mount_point, reference, manifest, blobs, recording,
                                                        core_->parts().clock.Now()));
}

void StartProfiles::Unmounted(const std::string& mount_point) {
  core_->Unmounted(mount_point);
}

void StartProfiles::Demanded(const BlobKey& key, ByteRange range) {
  core_->Demanded(key, range);
}

bool StartProfiles::Watches(const BlobKey& key) {
  return core_->Watches(key);
}

void StartProfiles::Give(const Digest& manifest, OnProfile done) {
  core_->Give(manifest, std::move(done));
}

void StartProfiles::Take(std::string record, const ProvenNames& proven, OnTaken done) {
  core_->Take(std::move(record), proven, std::move(done));
}

}  // namespace sluice
