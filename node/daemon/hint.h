#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "api/prefetch_backend.h"
#include "node/blob.h"
#include "node/chunk_set.h"
#include "node/daemon/background_fill.h"
#include "node/daemon/hint_figures.h"
#include "node/daemon/hint_login.h"
#include "node/daemon/range_fill.h"
#include "node/executor.h"
#include "node/image_profile.h"
#include "node/telemetry.h"
#include "p2p/registry/platform_match.h"

// A hint that the node has taken, and what can be said of one without a node.

namespace sluice {

// Part of a blob that a hint brings in. (What api calls targets are members that a hint is for.)
struct Target {
  Blob::Lease lease;
  std::vector<ChunkSpan> spans;     // what of it is wanted
  std::unique_ptr<RangeFill> fill;  // null: BackgroundFill brings it in whole, if anybody
  bool complete = false;
  ChunkSet missing;  // of what is wanted, when the hint learned of it
};

// Guarded by the mutex of who has it, but for what is constant.
struct Hint {
  api::HintSpec spec;  // constant; the reference is canonical, the ranges are sorted
  p2p::Platform platform;
  FillOwner owner{};
  uint64_t number = 0;                            // constant; the later, the greater
  std::chrono::system_clock::time_point taken{};  // constant
  std::optional<Instant> due{};                   // constant; when it is needed by
  Instant expires{};                              // constant
  std::atomic<bool> cancelled{false};             // also read by who prepares the image
  bool with_credentials = false;                  // constant; given with it
  bool lost_login = false;                        // constant; a daemon before had its credentials

  std::shared_ptr<const HintLogin> login{};  // of one with credentials that is for this node and not over

  api::HintStatus status;
  api::HintStatus told;                 // as it was described last
  std::optional<Instant> resolve_by{};  // since its turn has come
  Duration retry_after{};
  std::optional<Blob::Lease> bootstrap{};
  std::vector<Target> targets{};  // empty until the image or the blob is known
  size_t incomplete = 0;          // targets
  uint64_t present_first = 0;     // bytes of them that were present when they became known
  const std::shared_ptr<HintFigures> figures = std::make_shared<HintFigures>();
  // How fast the others come: what had come when it was last looked at, and the mean since, in which what is
  // older counts less.
  struct Pace {
    Instant at{};  // never: it does not fetch
    uint64_t fetched = 0;
    double bytes_per_second = 0;
    int looks = 0;  // that it is the mean of
  };
  Pace pace{};
  // Of one with members that it is for.
  bool is_here = true;     // constant; it is for this node, too
  bool told_last = false;  // all that it asks for is here, and members are still to be told
  bool recalled = false;   // its client has cancelled it, and whoever takes it still is told so

  bool over() const { return api::IsOver(status.state); }
  // Whether it wants whole blobs.
  bool wants_all() const { return spec.ranges.empty() && !spec.profile; }
  // Whether BackgroundFill brings them, which asks by this node's own right.
  bool shares_fills() const { return wants_all() && !with_credentials; }
};
using HintPtr = std::shared_ptr<Hint>;

// Whether `a` has its turn before `b`. A strict order of all hints.
bool GoesBefore(const HintPtr& a, const HintPtr& b);

// Sets when it is due and expires, from the spec, when it was taken, and the two clocks.
void SetTimes(Hint& hint, Instant now, std::chrono::system_clock::time_point wall_now, Duration ttl_default);

p2p::Platform PlatformOf(const api::HintSpec& spec);

// Where it is looked up: its reference, which is canonical, begins with it.
std::string RegistryOf(const Hint& hint);

// In what the new hint of an id differs from the one that is known; empty if in nothing.
std::string Difference(const Hint& known, const api::HintSpec& spec, const p2p::Platform& platform);

// Whether what failed like this may succeed by itself.
bool MayPass(const absl::Status& status);

// Errors: InvalidArgument (a range is not within one of the blobs).
absl::Status CheckRanges(const api::HintSpec& hint, std::span<const BlobSpec> blobs);

// Those of the chunks that are absent, or, of `among`, that are present.
ChunkSet MissingOf(const Blob& blob, const std::vector<ChunkSpan>& spans);
ChunkSet PresentOf(const Blob& blob, const ChunkSet& among);

// What of the blob the hint wants; empty if nothing.
std::vector<ChunkSpan> SpansOf(const api::HintSpec& hint, const Blob& blob);

// What of each of the image's blobs, in its order, the profile says is needed, up to `bytes_max` in the order
// of need. What is not within one of the blobs is passed over: a profile may be wrong.
std::vector<std::vector<ChunkSpan>> SpansOf(const ImageProfile& profile, std::span<const Blob::Lease> blobs,
                                            uint64_t bytes_max);

// To be called every now and then; `fetched` bytes have come until now, none if it does not fetch.
void NotePace(Hint& hint, Instant now, std::optional<uint64_t> fetched);
// Whether `left` bytes take longer at that pace than until it is due. False where that is not known.
bool IsExpectedLate(const Hint& hint, Instant now, uint64_t left);

// REQUIRES: IsOver(state)
HintResult ResultOf(api::HintState state);
const char* WordFor(api::HintState state);

}  // namespace sluice
