#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob_key.h"
#include "node/chunk_set.h"
#include "node/executor.h"
#include "node/presence_map.h"
#include "ondemand/cache_objects.h"
#include "ondemand/descriptor_store.h"
#include "ondemand/erofs_instance.h"
#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/wire.h"
#include "ondemand/keeper_probe.h"
#include "ondemand/mount_point.h"

namespace sluice::ondemand {

struct KeeperClientOptions {
  keeper::DoorKind door = keeper::DoorKind::kFanotify;
  std::string runtime_dir;
  std::string state_dir;  // as DoorOptions::state_dir
  std::string blobs_dir;
  std::string cache_dir;  // cachefiles
  std::string keeper_path;
  std::string keeper_log;
  bool on_host = false;  // as DoorOptions::keeper_on_host
  Duration read_deadline;
  Duration call_timeout;
  uint32_t slots_max;
  DescriptorStore* descriptor_store = nullptr;
};

// A blob's place in the keeper's table; stays the same until it is unguarded.
class BlobEntry {
 public:
  explicit BlobEntry(uint32_t value) : value_(value) {}
  uint32_t value() const { return value_; }
  friend auto operator<=>(const BlobEntry&, const BlobEntry&) = default;

 private:
  uint32_t value_;
};

// The file that the kernel and the keeper know a blob by.
struct BlobFile {
  BlobKey key;
  uint64_t size = 0;
  uint32_t chunk_size = 0;
  dev_t device = 0;
  ino_t inode = 0;
};

struct MountedImage {
  std::string mount_point;
  std::string label;
  std::vector<BlobKey> devices;
  ErofsInstance instance = {};
  uint64_t device = 0;  // its file system's, as st_dev
};

// Reads of one blob that the keeper let pass by itself, since it was guarded, and that got an error of which
// the daemon does not know.
struct HitCounts {
  uint64_t reads = 0;
  uint64_t bytes = 0;
  uint64_t failed = 0;
  const char* last_failure = "";  // in words
};

struct KeeperCounters {
  uint64_t hits = 0;         // reads of present chunks, answered by the keeper alone
  uint64_t hit_bytes = 0;    // of these
  uint64_t published = 0;    // reads of absent chunks, handed to the daemon
  uint64_t filled = 0;       // of these, allowed
  uint64_t refused = 0;      // of these, failed by the daemon
  uint64_t expired = 0;      // of these, failed at their deadline
  uint64_t denied = 0;       // refused at once: unknown or changed files, beyond their end, just failed
  uint64_t errors = 0;       // events that could not be read or answered
  uint64_t log_dropped = 0;  // lines of its log that nobody took
  uint64_t failed = 0;       // reads that got an error of which the daemon does not know
};

// The door of mounts whose daemon and keeper are both dead, if the store has kept it for them: their readers
// wait. Errors: FailedPrecondition (what is kept is of another version of sluice, or damaged: nobody can say
// that there are none, and they must not be let go).
absl::StatusOr<std::optional<keeper::DoorKind>> DoorThatWaits(const DescriptorStore& store);

// The daemon's line to the keeper. Starts a keeper where none runs, and when the keeper dies puts a successor
// in its place that takes over its events: calls made meanwhile wait, within their time limit. A keeper that
// died together with its daemon is succeeded likewise, where a DescriptorStore has kept what they had. One of
// another version of sluice becomes one of ours, under its mounts.
//
// Thread-safe; calls block for at most call_timeout (about twice that while a keeper is replaced). Every call
// fails with Unavailable if the keeper does not answer in time.
class KeeperClient {
 public:
  static constexpr Duration kSilent = std::chrono::seconds(10);

  // Errors: FailedPrecondition (another daemon is attached, or the keeper could not set up its watch: the
  // message says why), Unavailable.
  static absl::StatusOr<std::unique_ptr<KeeperClient>> Connect(KeeperClientOptions options);
  // Says no goodbye: the keeper treats us as attached while our process lives.
  ~KeeperClient();
  KeeperClient(const KeeperClient&) = delete;
  KeeperClient& operator=(const KeeperClient&) = delete;

  // Tells the keeper that this daemon works no ticket any more. A keeper without mounts then exits. Where
  // images are mounted and the keeper is dead, another one is put there first: the kernel's side would go
  // with this process, and holes read as zeros. Errors: Unavailable (there are mounts, and there was no
  // keeper to be had in call_timeout).
  absl::Status Detach();

  // Idempotent by file. Errors: as Door::GuardBlob.
  absl::StatusOr<BlobEntry> Guard(const BlobFile& file);
  absl::Status Unguard(BlobEntry entry);
  // The presence bits that the keeper answers from. They live as long as journal() does.
  std::span<PresenceMap::Word> Mirror(BlobEntry entry);
  std::vector<BlobKey> GuardedBlobs() const;
  // The place of a blob that is guarded, by whomever.
  std::optional<BlobEntry> FindEntry(const BlobKey& key) const;

  // Takes the kernel's events off the blob's file (its ignore mark), or puts them back. Idempotent.
  absl::Status MarkComplete(BlobEntry entry);
  absl::Status ClearComplete(BlobEntry entry);

  // `bootstrap` and `domain` are of the cachefiles door only.
  struct Image {
    std::string bootstrap_path;
    std::optional<BlobEntry> bootstrap;
    std::vector<BlobEntry> devices;
    std::string domain;
    std::string label;
    uint32_t flags = 0;  // keeper::MountFlag
  };
  absl::Status Mount(const Image& image, const MountPoint& mount_point);
  absl::Status Unmount(const std::string& mount_point);
  // As Door::DetachImage and Door::RefuseReads.
  absl::Status DetachMount(const std::string& mount_point);
  absl::Status RefuseReads();
  absl::StatusOr<std::vector<MountedImage>> ListMounts();
  // As Door::AdoptOrphan.
  absl::Status AdoptOrphan(const ErofsInstance& instance, std::span<const BlobEntry> devices);
  // Whether the keeper guards what that file system reads: one that it mounted, or that a predecessor did
  // whose events it took over.
  bool Serves(const ErofsInstance& instance) const;

  // The kernel's copies of blobs that are open; nullptr but with the cachefiles door. Lives as long as this.
  CacheObjects* objects() const { return objects_.get(); }
  // Duplicates of what the kernel's requests are read from, and of the directory that its files are in.
  keeper::Descriptor DuplicateRequests() const;
  keeper::Descriptor DuplicateTree() const;

  const std::shared_ptr<keeper::Journal>& journal() const { return journal_; }
  // Written to after a slot was completed; wakes the keeper.
  int completion_fd() const { return completions_.get(); }
  KeeperCounters counters() const;
  HitCounts hits(BlobEntry entry) const;
  // As Door::TakeTouched.
  bool TakeTouched(BlobEntry entry, ChunkSet& touched);
  uint64_t keepers_replaced() const { return keepers_replaced_.load(); }
  pid_t keeper_pid() const { return keeper_pid_.load(); }
  // The errno value by which the keeper has found the kernel's side gone; 0 while it is there.
  int kernel_error() const;
  // Unavailable if there is no keeper, or it has not answered for kSilent: it is stopped, or hangs. One that
  // mounts an image for us is given the time. Does not block.
  absl::Status KeeperStatus() const;
  // Tells the keeper by SIGHUP. Does nothing while there is none.
  void ReopenLog();

 private:
  explicit KeeperClient(KeeperClientOptions options)
      : options_(std::move(options)), probe_([this] { return Dial(); }) {}
  absl::Status Attach();
  absl::Status AdoptDescriptors(keeper::Message& reply);
  absl::Status Replace(const keeper::Descriptor& process);
  bool RunsAnotherProgram(pid_t keeper) const;
  absl::StatusOr<std::string> KeeperProgram() const;
  absl::Status TakeStored();
  absl::Status StoreDescriptors();
  absl::StatusOr<keeper::Descriptor> Dial() const;
  absl::StatusOr<keeper::Descriptor> DialIn(const std::string& directory) const;
  absl::Status Spawn(std::vector<std::string> arguments, std::span<const int> inherited,
                     const std::function<void()>& feed = nullptr) const;
  void SendObjects(keeper::Descriptor line) const;
  absl::Status StartKeeper() const;
  enum class OldDaemon { kSelf, kDead };
  absl::Status StartSuccessor(OldDaemon old_daemon) const;
  absl::Status Reattach();
  absl::Status SayGoodbye();
  void OnLineLost(int error);
  absl::StatusOr<keeper::Reply> CallLocked(const void* request, size_t size,
                                           std::span<const int> descriptors);
  absl::StatusOr<keeper::Reply> CallKeeper(const void* request, size_t size,
                                           std::span<const int> descriptors = {}, Duration extra = {});
  void SetTimeout(Duration extra);
  absl::Status CallOnMountPoint(keeper::RequestKind kind, const std::string& mount_point);
  absl::Status CallOnEntry(keeper::RequestKind kind, BlobEntry entry);
  std::optional<BlobKey> KeyOf(uint32_t entry) const;
  bool KeeperIsDead() const;
  void WatchKeeper();
  bool ReplaceDeadKeeper();
  void StopWatching();

  const KeeperClientOptions options_;

  // Constant after the first attachment.
  std::shared_ptr<keeper::Journal> journal_;
  keeper::Descriptor completions_;
  keeper::Descriptor requests_;  // kept open so that the kernel does not lose its door when a keeper dies
  keeper::Descriptor tree_;
  keeper::Descriptor stop_event_;
  std::unique_ptr<CacheObjects> objects_;
  bool took_stored_ = false;

  std::atomic<uint64_t> keepers_replaced_{0};
  std::atomic<pid_t> keeper_pid_{0};
  std::atomic<bool> keeper_lives_{false};
  std::atomic<int> long_calls_{0};  // under way: what the keeper does meanwhile keeps it from answering
  KeeperProbe probe_;               // the watcher's

  std::timed_mutex mutex_;  // guards what follows: one call at a time
  keeper::Descriptor socket_;
  keeper::Descriptor keeper_process_;  // a pidfd
  bool detached_ = false;

  std::thread watcher_;
};

}  // namespace sluice::ondemand
