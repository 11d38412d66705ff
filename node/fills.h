#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "node/blob.h"
#include "node/bulk_lane.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/fetch_scheduler.h"
#include "node/source_directory.h"
#include "node/work_source.h"

namespace sluice {

// Names a fill; never given twice.
enum class FillId : uint64_t {};

struct FillRequest {
  BlobKey blob;
  FetchClass fetch_class = FetchClass::kBackfill;  // not kDemand
  std::vector<ChunkSpan> chunks = {};              // within the blob, in order, apart; empty: all of it
  Grant grant = nullptr;                           // by which it is asked for; null: this node's own right
};
using FillDone = absl::AnyInvocable<void(absl::Status) &&>;

// Brings in what is absent of blobs, or of parts of them. What a bulk lane carries is left to it. Two fills
// of one blob share its fetches chunk by chunk, as readers do, and end each by itself.
//
// Owned by the core loop. Not thread-safe.
class Fills {
 public:
  struct Parts {
    const Clock& clock;
    Executor& core;
    FetchScheduler& scheduler;
    SourceDirectory& sources;
    BulkLane* bulk;  // null if there is none
    // Forgets the runs of a fill that is stopped; what nobody else wants of them is cancelled.
    std::function<void(const WorkSource&)> cancel_runs;
    // Starts what there is room for.
    std::function<void()> pump;
  };
  explicit Fills(Parts parts);
  ~Fills();

  // `done` comes once: OK when all is present, the first error of a chunk that can't be had, Cancelled.
  void Start(FillId id, Blob::Lease lease, FillRequest request, FillDone done);
  // Ends it at once, with Cancelled: its lease is gone when this returns. No-op if it has ended.
  void Stop(FillId id);
  void StopAll(const absl::Status& why);

 private:
  class Fill;
  void JoinBulk(const std::shared_ptr<Blob>& blob);
  void LeaveBulk(const Blob& blob);
  void End(FillId id, const absl::Status& status);

  const Parts parts_;
  absl::flat_hash_map<FillId, std::shared_ptr<Fill>> fills_;
  absl::flat_hash_map<BlobKey, int> bulk_users_;  // fills of each blob that has joined the bulk lane
};

}  // namespace sluice
