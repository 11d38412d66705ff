#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "node/secret.h"

// What the daemon gives to sluice.v1.PrefetchService: one port, in plain types.

namespace sluice::api {

inline constexpr size_t kHintIdBytesMax = 128;
inline constexpr size_t kHintRangesMax = 256;    // of one hint
inline constexpr size_t kHintsPerCallMax = 100;  // submitted, watched or cancelled
inline constexpr size_t kSchedulerBytesMax = 64;
inline constexpr int32_t kHintPriorityMax = 100;        // and -100 is the least
inline constexpr size_t kHintTargetsMax = 1024;         // of one hint
inline constexpr size_t kHintTargetsPerCallMax = 4096;  // submitted at once; and told of at once
inline constexpr size_t kHintTargetBytesMax = 255;      // of a member's name
inline constexpr size_t kHintUsernameBytesMax = 255;
inline constexpr size_t kHintPasswordBytesMax = 8 << 10;  // a token may stand for it
inline constexpr Duration kHintTtlMax = std::chrono::hours(7 * 24);

struct HintPlatform {
  std::string os;            // not empty
  std::string architecture;  // not empty
  std::string variant;       // empty if it does not matter

  friend bool operator==(const HintPlatform&, const HintPlatform&) = default;
};

// A part of a blob that a hint wants.
struct HintRange {
  Digest blob;
  ByteRange range;  // not empty; its end does not overflow

  friend auto operator<=>(const HintRange&, const HintRange&) = default;
};

// A blob that is hinted at without an image.
struct HintBlob {
  Digest digest;
  uint64_t size = 0;  // 0: the registry is to be asked

  friend bool operator==(const HintBlob&, const HintBlob&) = default;
};

// By what a registry knows who gives a hint.
struct HintCredentials {
  std::string username;  // not empty
  Secret password;       // not empty
};

// A hint as it is submitted.
struct HintSpec {
  std::string id;                          // 1 to kHintIdBytesMax bytes
  std::string reference;                   // of an image, or registry/repository@digest of a blob
  std::optional<HintPlatform> platform{};  // the node's own if absent
  std::vector<HintRange> ranges{};         // none: all of it; at most kHintRangesMax; of `blob` alone, if any
  int32_t priority = 0;                    // the higher goes first
  // The earlier goes first among those of one priority, and none last. May have passed.
  std::optional<std::chrono::system_clock::time_point> needed_by{};
  std::optional<Duration> ttl{};   // > 0, at most kHintTtlMax; the node's own if absent
  std::string scheduler{};         // at most kSchedulerBytesMax bytes
  bool pin = false;                // what it has brought in is never evicted, until somebody unpins it
  std::optional<HintBlob> blob{};  // the one that the reference names; absent: it names an image
  // Names of the members that it is for, sorted, each once, at most kHintTargetsMax; none: this node.
  std::vector<std::string> targets{};
  bool profile = false;  // what starts of the image read, in place of all; then no ranges, no blob
  // For this hint alone, and no part of its content: never told, written or logged. Absent: the node's own.
  std::optional<HintCredentials> credentials{};
};

enum class HintState {
  kQueued,
  kResolving,
  kFetching,
  kPassingOn,  // its targets are being told, and this node is none of them
  kCompleted,
  kCancelled,
  kFailed,
  kExpired,
  kPassedOn,  // its targets were told, and this node is none of them
};
inline bool IsOver(HintState state) {
  return state >= HintState::kCompleted;
}

enum class TargetState { kSending, kTaken, kFailed, kCancelling, kCancelled };
inline constexpr size_t kTargetStateCount = 5;

// What has become of passing a hint on to one member.
struct TargetStatus {
  std::string name;
  TargetState state = TargetState::kSending;
  absl::Status error{};  // of kFailed; of kTaken, why it could not be told that the hint was cancelled

  friend bool operator==(const TargetStatus&, const TargetStatus&) = default;
};

struct HintStatus {
  std::string id{};
  std::string reference{};           // with its defaults written out
  std::optional<Digest> manifest{};  // absent until it is resolved
  HintState state = HintState::kQueued;
  absl::Status error{};      // of kFailed; in kResolving and kFetching that of the latest try
  uint64_t total_bytes = 0;  // 0 until it is resolved
  uint64_t present_bytes = 0;
  bool late = false;  // not all is present, or was when it ended, though the time it was needed by has passed
  std::string scheduler{};
  uint64_t revision = 0;  // of its latest change: greater than that of any change before, of any hint
  std::optional<uint32_t> profile_starts{};  // of a hint for a profile, once known; 0: there is none
  std::vector<TargetStatus> targets{};       // of a hint with targets, as its spec has them; or left out
  std::array<uint32_t, kTargetStateCount> target_totals{};  // of all its targets
  uint64_t fetched_bytes = 0;                               // of it, that have come since its size was known
  uint64_t bytes_per_second = 0;  // of those, in the last seconds; 0 unless it fetches
  bool expected_late = false;     // at that pace not all is present by the time it is needed by
  std::array<uint64_t, kSourceKindCount> come_bytes{};  // of fetched_bytes, by where from
  uint64_t used_bytes = 0;    // of those, that a start of the image has read; also after the hint is over
  uint64_t unread_bytes = 0;  // that no start has that was watched, or that left the store before; likewise

  friend bool operator==(const HintStatus&, const HintStatus&) = default;
};

enum class SubmitOutcome { kAccepted, kKnown, kRefused };

struct SubmitResult {
  SubmitOutcome outcome = SubmitOutcome::kAccepted;
  absl::Status error;  // of kRefused
  HintStatus status;   // but for kRefused
};

// Port: hints. None of its calls waits for the network, and none for the disk but SubmitHints and
// CancelHints, as far as a write that nobody syncs does: WatchHints takes a snapshot several times a second
// for every watcher.
//
// Thread-safe. A status that is not OK reaches the user as it is, so its message says what failed, on what,
// and what to do.
class PrefetchBackend {
 public:
  virtual ~PrefetchBackend() = default;

  // One result for each hint, in their order. Errors: InvalidArgument (a reference is malformed, or a hint
  // with credentials is for members that are not reached by TLS; the latter names the field), Unavailable
  // (the node is drained); then none of them is taken. In a result: PermissionDenied (not on the allow-list),
  // AlreadyExists (the id has another content), FailedPrecondition (targets, where no members are known of),
  // ResourceExhausted (too many are under way, in all or of its scheduler; with a RetryInfo).
  virtual absl::StatusOr<std::vector<SubmitResult>> SubmitHints(const std::vector<HintSpec>& hints) = 0;

  // The greatest revision that any hint has had; it grows over restarts too, unless the clock was set back.
  virtual uint64_t Revision() = 0;

  // In the order of the ids; here and above, of all of them at most kHintTargetsPerCallMax targets. Errors:
  // NotFound (one of them is not known).
  virtual absl::StatusOr<std::vector<HintStatus>> GetHints(const std::vector<std::string>& ids) = 0;

  // At most `count_max` hints whose ids come after `after` (empty: from the first on), in the order of their
  // ids, without their targets; fewer only if there are no more.
  virtual std::vector<HintStatus> ListHints(const std::string& after, size_t count_max) = 0;

  // Ends those that are not over, and has all their targets told that have taken them; the hints as they are
  // then, in the order of the ids. Errors: NotFound (one of them is not known; then none is ended).
  virtual absl::StatusOr<std::vector<HintStatus>> CancelHints(const std::vector<std::string>& ids) = 0;
};

}  // namespace sluice::api
