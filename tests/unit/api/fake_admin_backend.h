#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/admin_backend.h"

namespace sluice::api {

inline Digest TestDigest(uint8_t first_byte) {
  std::array<uint8_t, Digest::kBytes> bytes{};
  bytes[0] = first_byte;
  return Digest(bytes);
}

// All five ports in memory. Records what it was asked, answers from its public fields, and can be told to
// fail or to hold calls back. Set it up before the calls begin, or under the server's quiet.
class FakeAdminBackend final : public StatusBackend,
                               public MountBackend,
                               public BlobBackend,
                               public PeerBackend,
                               public ProfileBackend {
 public:
  AdminBackend ports() { return {*this, *this, *this, *this, *this}; }

  NodeStatus status;
  std::function<void()> on_status;  // changes `status`, each time before it is told
  PeersReport peers;
  std::vector<DialFinding> dials;
  std::map<std::string, MountInfo> mounts;
  HolderReport holders;
  std::map<Digest, BlobInfo> blobs;
  VerifyReport verify_report;
  std::vector<VerifyProgress> verify_steps;
  bool verify_until_cancelled = false;
  std::atomic<int> verifies_cancelled{0};
  uint64_t evict_freed_bytes = 0;
  std::string recipe;
  std::map<std::string, ProfileReport> profiles;  // by how the image is named
  ImageStarts starts;
  std::function<void()> on_unmount;  // changes what is told from then on
  // What every call but GetFillProgress answers, if it is not OK.
  absl::Status failure;
  // What one GetFillProgress after the other answers; the last one again and again.
  std::vector<std::vector<FillProgress>> fill_snapshots;

  // Calls to what is named wait from Hold until Release.
  void Hold(std::set<std::string> names = {"GetStatus"}) { SetHeld(std::move(names)); }
  void Release() { SetHeld({}); }
  // Waits until so many calls are held.
  void AwaitHeld(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_count_ >= count; });
  }

  std::vector<std::string> calls() const {
    std::lock_guard lock(mutex_);
    return calls_;
  }
  MountRequest last_mount() const {
    std::lock_guard lock(mutex_);
    return last_mount_;
  }

  absl::StatusOr<NodeStatus> GetStatus() override {
    std::unique_lock lock(mutex_);
    calls_.push_back("GetStatus");
    WaitWhileHeld("GetStatus", lock);
    if (!failure.ok()) return failure;
    if (on_status) on_status();
    return status;
  }

  LogLevel SetLogLevel(LogLevel level) override {
    std::lock_guard lock(mutex_);
    calls_.push_back("SetLogLevel");
    return std::exchange(status.log_level, level);
  }

  size_t SetDrain(DrainState state) override {
    std::lock_guard lock(mutex_);
    calls_.push_back("SetDrain");
    status.drain = state;
    return state == DrainState::kDrained ? hints_ended : 0;
  }
  size_t hints_ended = 3;  // by a drain

  absl::StatusOr<PeersReport> ListPeers() override {
    std::lock_guard lock(mutex_);
    calls_.push_back("ListPeers");
    if (!failure.ok()) return failure;
    return peers;
  }

  absl::StatusOr<std::vector<DialFinding>> DialBack(Instant) override {
    std::lock_guard lock(mutex_);
    calls_.push_back("DialBack");
    if (!failure.ok()) return failure;
    if (!peers.cluster.configured) return absl::FailedPreconditionError("it was told of no others");
    return dials;
  }

  absl::StatusOr<MountInfo> Mount(const MountRequest& request) override {
    std::unique_lock lock(mutex_);
    calls_.push_back(absl::StrCat("Mount ", request.reference, " ", request.mount_point));
    last_mount_ = request;
    WaitWhileHeld("Mount", lock);
    if (!failure.ok()) return failure;
    MountInfo mount;
    mount.reference = request.reference;
    mount.mount_point = request.mount_point;
    mount.backend = "fanotify";
    mount.manifest_digest = TestDigest(0xee);
    mount.blobs = {{TestDigest(1), 1000, 250}};
    return mounts[request.mount_point] = mount;
  }

  absl::Status Unmount(const std::string& mount_point) override {
    std::unique_lock lock(mutex_);
    calls_.push_back("Unmount " + mount_point);
    WaitWhileHeld("Unmount", lock);
    if (!failure.ok()) return failure;
    if (on_unmount) on_unmount();
    if (mounts.erase(mount_point) == 0) return absl::NotFoundError("nothing is mounted at " + mount_point);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<UnmountResult>> UnmountAll(Readers readers, Instant) override {
    std::lock_guard lock(mutex_);
    calls_.push_back(readers == Readers::kEnd ? "UnmountAll, ending readers" : "UnmountAll");
    if (!failure.ok()) return failure;
    std::vector<UnmountResult> results;
    for (auto mount = mounts.rbegin(); mount != mounts.rend(); ++mount) {
      const bool used = std::any_of(holders.holders.begin(), holders.holders.end(),
                                    [&](const auto& holder) { return holder.mount_point == mount->first; });
      const bool busy = used && readers == Readers::kKeep;
      results.push_back({mount->first, mount->second.reference,
                         busy ? absl::FailedPreconditionError("unmount: busy") : absl::OkStatus(),
                         used && !busy});
    }
    for (const UnmountResult& result : results)
      if (result.status.ok()) mounts.erase(result.mount_point);
    return results;
  }

  absl::StatusOr<HolderReport> ListHolders() override {
    std::lock_guard lock(mutex_);
    calls_.push_back("ListHolders");
    if (!failure.ok()) return failure;
    return holders;
  }

  absl::StatusOr<std::vector<MountInfo>> ListMounts() override {
    std::lock_guard lock(mutex_);
    calls_.push_back("ListMounts");
    if (!failure.ok()) return failure;
    std::vector<MountInfo> list;
    for (const auto& [mount_point, mount] : mounts) list.push_back(mount);
    return list;
  }

  absl::StatusOr<std::vector<FillProgress>> GetFillProgress(const std::string& mount_point) override {
    std::lock_guard lock(mutex_);
    if (fill_snapshots.empty()) return absl::NotFoundError("nothing is mounted at " + mount_point);
    const size_t turn = std::min(fill_polls_++, fill_snapshots.size() - 1);
    return fill_snapshots[turn];
  }

  absl::StatusOr<ImageStarts> GetStartReports(const std::string& image) override {
    std::lock_guard lock(mutex_);
    calls_.push_back("GetStartReports " + image);
    if (!failure.ok()) return failure;
    return starts;
  }

  absl::StatusOr<std::vector<BlobInfo>> ListBlobs(const BlobPageRequest& page) override {
    std::lock_guard lock(mutex_);
    calls_.push_back(absl::StrCat("ListBlobs ", page.count_max));
    if (!failure.ok()) return failure;
    std::vector<BlobInfo> list;
    for (auto it = page.after ? blobs.upper_bound(*page.after) : blobs.begin();
         it != blobs.end() && list.size() < page.count_max; ++it) {
      list.push_back(it->second);
    }
    return list;
  }

  absl::StatusOr<BlobInfo> GetBlob(const Digest& digest) override {
    for (const auto& [plain, blob] : blobs) {
      for (const auto& [origin, stored] : blob.stored) {
        if (stored.digest == digest) return blob;
      }
    }
    absl::Status found = Record("GetBlob", digest);
    if (!found.ok()) return found;
    return blobs[digest];
  }

  absl::StatusOr<std::string> GetBlobRecipe(const Digest& digest) override {
    absl::Status found = Record("GetBlobRecipe", digest);
    if (!found.ok()) return found;
    return recipe;
  }

  absl::StatusOr<VerifyReport> VerifyBlob(const Digest& digest, const CancelCheck& cancelled,
                                          const OnVerifyProgress& on_progress) override {
    absl::Status found = Record("VerifyBlob", digest);
    if (!found.ok()) return found;
    {
      std::unique_lock lock(mutex_);
      WaitWhileHeld("VerifyBlob", lock);
    }
    for (const VerifyProgress& progress : verify_steps) {
      on_progress(progress);
      std::unique_lock lock(mutex_);
      WaitWhileHeld("VerifyBlob step", lock);
    }
    while (verify_until_cancelled && !cancelled) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (cancelled) ++verifies_cancelled;
    if (cancelled && verify_until_cancelled) return absl::CancelledError("nobody waits for it any more");
    return verify_report;
  }

  absl::StatusOr<uint64_t> EvictBlob(const Digest& digest) override {
    absl::Status found = Record("EvictBlob", digest);
    if (!found.ok()) return found;
    return evict_freed_bytes;
  }

  absl::Status SetPin(const Digest& digest, PinState state) override {
    absl::Status found = Record("SetPin", digest);
    if (found.ok()) blobs[digest].pinned = state == PinState::kPinned;
    return found;
  }

  absl::StatusOr<ProfileReport> GetProfile(const std::string& image, Instant) override {
    std::lock_guard lock(mutex_);
    calls_.push_back("GetProfile " + image);
    if (!failure.ok()) return failure;
    const auto found = profiles.find(image);
    if (found == profiles.end()) return absl::NotFoundError("no start of " + image);
    return found->second;
  }

  absl::StatusOr<ProfileReport> ImportProfile(const std::string& reference,
                                              const std::string& document) override {
    std::lock_guard lock(mutex_);
    calls_.push_back(absl::StrCat("ImportProfile ", reference, " ", document));
    if (!failure.ok()) return failure;
    return profiles[reference];
  }

 private:
  void SetHeld(std::set<std::string> names) {
    {
      std::lock_guard lock(mutex_);
      held_ = std::move(names);
    }
    changed_.notify_all();
  }
  void WaitWhileHeld(const std::string& call, std::unique_lock<std::mutex>& lock) {
    ++held_count_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !held_.contains(call); });
    --held_count_;
  }

  absl::Status Record(const char* call, const Digest& digest) {
    std::lock_guard lock(mutex_);
    calls_.push_back(absl::StrCat(call, " ", digest.ToString()));
    if (!failure.ok()) return failure;
    if (!blobs.contains(digest)) return absl::NotFoundError("no blob " + digest.ToString());
    return absl::OkStatus();
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> calls_;
  MountRequest last_mount_;
  size_t fill_polls_ = 0;
  std::set<std::string> held_;
  int held_count_ = 0;
};

}  // namespace sluice::api
