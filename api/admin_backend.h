#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/start_report.h"
#include "node/blob.h"
#include "node/cancel_check.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/image_counters.h"
#include "node/image_profile.h"
#include "node/telemetry.h"

// What the daemon gives to sluice.v1.AdminService: five small ports, in plain types.
//
// All of them: thread-safe; called on AdminService's own worker threads, never on the core loop, and may
// block until the deadline they were given (or for the time of a few disk accesses where there is none). A
// status that is not OK reaches the user as it is, so its message says what failed, on what, and what to do.

namespace sluice::api {

// Reads answered, by where the bytes came from; index with static_cast<size_t>(SourceKind).
struct ServedTotals {
  std::array<uint64_t, kSourceKindCount> reads{};
  std::array<uint64_t, kSourceKindCount> bytes{};
};

struct StoreStatus {
  uint64_t capacity_bytes = 0;
  uint64_t size_bytes = 0;
  uint64_t blob_count = 0;
};

// How this node stands in its cluster.
struct ClusterStatus {
  bool configured = false;  // it was told of other nodes
  bool cut_off = false;     // it reaches fewer than half of them
  bool cold_start = false;  // it is still learning for the first time who they are
};

// How weighty a line must be to be logged.
enum class LogLevel { kDebug, kInfo, kWarn, kError };

// Whether hints are taken.
enum class DrainState { kServing, kDrained };

struct NodeStatus {
  std::string version;
  std::string backend;         // "fanotify", "cachefiles", "fuse" or "off"
  std::string backend_reason;  // why this one was chosen
  std::string data_directory;
  Duration uptime{};
  StoreStatus store;
  uint32_t mount_count = 0;
  ServedTotals served;
  uint64_t read_errors = 0;
  uint64_t origin_bytes = 0;  // received from registries, whatever they were for
  std::array<uint64_t, kPeerLaneCount> peer_received_bytes{};  // of blobs, from other nodes
  std::array<uint64_t, kPeerLaneCount> peer_sent_bytes{};      // of blobs, to other nodes
  uint32_t member_count = 0;                                   // other nodes
  ClusterStatus cluster;
  LogLevel log_level = LogLevel::kInfo;
  std::array<uint64_t, kFetchClassCount> fetches{};  // begun; index with static_cast<size_t>(FetchClass)
  std::array<uint64_t, kFetchClassCount> fetches_under_way{};     // the same
  uint64_t inflight_bytes = 0;                                    // asked for and not yet stored
  uint64_t chunks_wanted = 0;                                     // absent, queued or under way
  std::array<uint64_t, kReadaheadResultCount> readahead_bytes{};  // as Telemetry has them
  std::array<uint64_t, kHintResultCount> hints{};                 // the same, of those that have ended
  std::array<uint64_t, kHintBytesCount> hint_bytes{};             // as ImageCounters has them
  DrainState drain = DrainState::kServing;
};

// How much of a mounted blob is in the store.
struct BlobPresence {
  Digest digest;
  uint64_t size_bytes = 0;
  uint64_t present_bytes = 0;
};

struct MountInfo {
  std::string reference;  // as it was asked for
  Digest manifest_digest;
  std::string mount_point;  // absolute
  std::string backend;
  std::vector<BlobPresence> blobs;
  ServedTotals served;
  uint64_t read_errors = 0;
  std::string last_error;                                 // empty if there was none
  std::chrono::system_clock::time_point last_error_time;  // the epoch if not known
};

// Whether the rest of an image is brought in after it is mounted.
enum class FillMode { kDefault, kOnDemand, kBackground };  // kDefault: as the configuration says

// For how long it is recorded what is read of a mount.
enum class StartRecording { kAsConfigured, kWhileMounted };

// What a mount may be used for, as mount(8) has it.
struct MountOptions {
  bool suid = true;  // set-user-ID programs and those with file capabilities get their privileges
  bool dev = true;   // device files work
  bool exec = true;  // programs can be run

  friend bool operator==(const MountOptions&, const MountOptions&) = default;
};

struct MountRequest {
  std::string reference;    // not empty
  std::string mount_point;  // absolute
  FillMode fill = FillMode::kDefault;
  Instant deadline;  // by then the mount is there, or none of it is
  MountOptions options = {};
  StartRecording recording = StartRecording::kAsConfigured;
  CancelCheck cancelled = {};  // nobody waits for it any more: nothing is mounted from then on
};
// Whether both ask for the same, whoever waits how long for it.
inline bool SameMount(const MountRequest& a, const MountRequest& b) {
  return a.reference == b.reference && a.mount_point == b.mount_point && a.fill == b.fill &&
         a.options == b.options && a.recording == b.recording;
}

// A process that uses a mount, or what was mounted and is used still.
struct MountHolder {
  int32_t pid = 0;          // as the node sees it
  std::string process;      // its name
  std::string path;         // of one file that it uses, as it is called there
  std::string mount_space;  // its mount namespace
  std::string mount_point;  // of the image
  std::string reference;
  std::string pod_namespace;  // these empty where it is in no pod, or nobody knows in which
  std::string pod;
  std::string container;
  std::string pod_uid;
  std::string container_id;
};

struct HolderReport {
  std::vector<MountHolder> holders;  // in the order of pids
  uint64_t more = 0;                 // left out
  bool complete = false;  // false: there may be others, as not all processes could be looked into in time
};

// What becomes of who reads from what is unmounted: it stays mounted for them, or their reads get errors.
enum class Readers { kKeep, kEnd };

struct UnmountResult {
  std::string mount_point;
  std::string reference;
  absl::Status status;      // why it is mounted still
  bool used_still = false;  // it is unmounted, and somebody keeps it for himself
};

enum class FillState { kIdle, kFilling, kComplete, kFailed };  // kIdle: nobody asked for a fill

struct FillProgress {
  BlobPresence blob;
  FillState state = FillState::kIdle;
  std::string error;  // of kFailed
};

struct BlobInfo {
  Digest digest;
  uint64_t size_bytes = 0;
  uint32_t chunk_size_bytes = 0;
  uint64_t present_bytes = 0;
  uint32_t unverified_chunks = 0;
  bool recipe_bound = false;
  bool refused = false;  // its digest did not hold; no byte of it is served
  bool pinned = false;
  uint32_t lease_count = 0;                           // mounts and other users that protect it from eviction
  std::chrono::system_clock::time_point last_access;  // the epoch if never
  std::vector<BlobOrigin> origins;
  std::map<BlobOrigin, StoredForm> stored;  // how those keep it that don't keep it plain
};

// A page of a listing in the order of digests.
struct BlobPageRequest {
  std::optional<Digest> after;  // the last digest of the page before
  uint32_t count_max = 0;       // > 0
};

struct VerifyReport {
  uint64_t checked_bytes = 0;      // hashed and held against a recipe or the digest
  uint32_t bad_chunks = 0;         // taken out of the store; fetched again when they are next read
  uint32_t unprovable_chunks = 0;  // present, but with nothing to check them against yet
};

// How far a verify is.
struct VerifyProgress {
  uint64_t read_bytes = 0;
  uint64_t total_bytes = 0;  // to be read; may grow
  VerifyReport found;        // so far
};
// Called on the caller's thread of VerifyBlob, after every read.
using OnVerifyProgress = std::function<void(const VerifyProgress&)>;

enum class PinState { kUnpinned, kPinned };

// What is known of another node: it answered last; it was not asked yet; it did not answer last; it has the
// name of another one that started later, or of this one; only its address is known.
enum class PeerState { kAlive, kNotAsked, kSilent, kTwin, kUnnamed };

// A node of the cluster as this one knows it.
struct PeerInfo {
  std::string name;                    // empty: kUnnamed
  std::vector<std::string> addresses;  // "host:port"
  std::string zone;
  PeerState state = PeerState::kNotAsked;
  uint32_t protocol = 0;
  Duration age{};          // since anybody had its row from itself, or its address from DNS
  double homes_share = 0;  // of the homes of a reference blob of 1,024 stripes, 0 to 1
  Duration skipped_for{};  // how long this node goes on not asking it; 0: it is asked
  std::string skip_reason;
  uint64_t requests = 0;      // of this node to it, since the start: answered or failed
  uint64_t failures = 0;      // of those
  uint64_t outrun = 0;        // chunks that another, asked later since it was late, gave first
  uint64_t recent_bytes = 0;  // of blobs, that it sent to this node in the last ten minutes
  uint64_t wrong_answers = 0;
  std::string blame;     // the last of those
  Duration blame_age{};  // since then
};

struct PeersReport {
  ClusterStatus cluster;
  PeerInfo self;                // what it says of itself; empty if !cluster.configured
  std::vector<PeerInfo> peers;  // in the order of names, the unnamed last
};

// Whether another node reached this one at an address, dialled from there.
enum class DialOutcome { kReached, kNotReached, kNotTried };
struct DialFinding {
  std::string address;  // of this node
  std::string member;   // that was asked to dial it
  DialOutcome outcome = DialOutcome::kNotTried;
  std::string why;  // it was not tried
};

class PeerBackend {
 public:
  virtual ~PeerBackend() = default;

  // A node that was told of no others has none.
  virtual absl::StatusOr<PeersReport> ListPeers() = 0;

  // Asks two members to dial this node at each of its addresses, for at most ten seconds. Empty if it has no
  // address, or knows no member. Errors: FailedPrecondition (it was told of no others).
  virtual absl::StatusOr<std::vector<DialFinding>> DialBack(Instant deadline) = 0;
};

class StatusBackend {
 public:
  virtual ~StatusBackend() = default;
  virtual absl::StatusOr<NodeStatus> GetStatus() = 0;

  // Until the node restarts; returns what it was before. Does not block.
  virtual LogLevel SetLogLevel(LogLevel level) = 0;

  // Until the node restarts; returns how many hints were ended. Does not block.
  virtual size_t SetDrain(DrainState state) = 0;
};

class MountBackend {
 public:
  virtual ~MountBackend() = default;

  // Errors: InvalidArgument (malformed reference; mount point missing, no directory or not empty), NotFound
  // (the registry has no such image), PermissionDenied (not on the allow-list; the registry refuses),
  // FailedPrecondition (not a lazy image; no backend works here), AlreadyExists (something else is mounted
  // there), DeadlineExceeded, Unavailable (registry), DataLoss (a digest does not hold).
  virtual absl::StatusOr<MountInfo> Mount(const MountRequest& request) = 0;

  // Errors: NotFound (nothing of ours is mounted there), FailedPrecondition (busy).
  virtual absl::Status Unmount(const std::string& mount_point) = 0;

  // In the order of mount points.
  virtual absl::StatusOr<std::vector<MountInfo>> ListMounts() = 0;

  // A snapshot, one entry for each blob of the mount. WatchFill takes one several times a second for every
  // watcher, so it must not wait for disk or network. Errors: NotFound (nothing of ours is mounted there).
  virtual absl::StatusOr<std::vector<FillProgress>> GetFillProgress(const std::string& mount_point) = 0;

  // Of the mounts of an image, or of the one at that absolute path. Does not block on the network. Errors:
  // InvalidArgument (malformed reference), NotFound (nothing of ours is mounted of it, or there).
  virtual absl::StatusOr<ImageStarts> GetStartReports(const std::string& image) = 0;

  // Of all that is mounted, the deepest first: who is left out for want of time has the status
  // DeadlineExceeded. With Readers::kEnd all reads get errors first, also those that wait. Errors:
  // Unavailable (readers could not be ended; then nothing was unmounted).
  virtual absl::StatusOr<std::vector<UnmountResult>> UnmountAll(Readers readers, Instant deadline) = 0;

  // Looks through all processes that the node sees, for a few seconds at most.
  virtual absl::StatusOr<HolderReport> ListHolders() = 0;
};

// A blob is named by its own digest, or by that under which a registry keeps it compressed: NotFound means
// neither is known, and InvalidArgument that several blobs are kept so, which the message names.
class BlobBackend {
 public:
  virtual ~BlobBackend() = default;

  // At most page.count_max blobs in the order of digests; fewer only on the last page.
  virtual absl::StatusOr<std::vector<BlobInfo>> ListBlobs(const BlobPageRequest& page) = 0;

  // Errors: NotFound.
  virtual absl::StatusOr<BlobInfo> GetBlob(const Digest& digest) = 0;

  // The bytes of the .torrent that its manifest's root vouches for. Errors: NotFound (no such blob, or none
  // for it), Unavailable (disk).
  virtual absl::StatusOr<std::string> GetBlobRecipe(const Digest& digest) = 0;

  // Hashes what is present again. A bad chunk is a finding in the report, not an error.
  // Ends soon once `cancelled`. `on_progress` is not null. Errors: NotFound, Cancelled, Unavailable (disk).
  virtual absl::StatusOr<VerifyReport> VerifyBlob(const Digest& digest, const CancelCheck& cancelled,
                                                  const OnVerifyProgress& on_progress) = 0;

  // Takes the blob out of the store; returns the bytes that were freed.
  // Errors: NotFound, FailedPrecondition (mounted, in use or pinned).
  virtual absl::StatusOr<uint64_t> EvictBlob(const Digest& digest) = 0;

  // A pinned blob is never evicted. Errors: NotFound, Unavailable (disk).
  virtual absl::Status SetPin(const Digest& digest, PinState state) = 0;
};

// What starts of an image have read.
struct ProfileReport {
  std::string reference;  // with its defaults written out; empty if only the manifest was named
  Digest manifest;
  bool is_public = false;  // the image's repository gives it to everybody
  ImageProfile profile;
  std::vector<BlobSpec> blobs;  // the image's; empty if they are not known
  std::string document;         // the same as text, for other nodes
};

class ProfileBackend {
 public:
  virtual ~ProfileBackend() = default;

  // `image` is a reference, or a manifest's digest. Errors: InvalidArgument (it is neither), NotFound (no
  // start is known, or the registry has no such image), and what else resolving a reference fails with.
  virtual absl::StatusOr<ProfileReport> GetProfile(const std::string& image, Instant deadline) = 0;

  // In place of what is known. Errors: InvalidArgument (malformed, or not of this image), Unavailable (disk),
  // and what resolving the reference fails with.
  virtual absl::StatusOr<ProfileReport> ImportProfile(const std::string& reference,
                                                      const std::string& document) = 0;
};

// The five together. The daemon owns them; they outlive the service.
struct AdminBackend {
  StatusBackend& status;
  MountBackend& mounts;
  BlobBackend& blobs;
  PeerBackend& peers;
  ProfileBackend& profiles;
};

}  // namespace sluice::api
