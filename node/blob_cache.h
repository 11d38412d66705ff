#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/amplifier.h"
#include "node/blob.h"
#include "node/bulk_lane.h"
#include "node/cache_activity.h"
#include "node/chunk_observer.h"
#include "node/chunk_sink.h"
#include "node/chunk_source.h"
#include "node/chunk_store.h"
#include "node/chunk_verifier.h"
#include "node/executor.h"
#include "node/fill_flows.h"
#include "node/fills.h"
#include "node/read_request.h"
#include "node/source_directory.h"
#include "node/source_planner.h"
#include "node/telemetry.h"

namespace sluice {

struct BlobCacheLimits {
  uint32_t fetch_bytes_max = 8 << 20;  // of one fetch; a longer run is cut
  // Asked for and not yet stored, over all fetches; below demand at most half of it.
  uint64_t inflight_bytes_max = 64 << 20;
  // Beyond this a read is refused (ResourceExhausted); what nobody waits for is not among them.
  uint32_t reads_waiting_max = 65536;
  // Under way at once, by class; half of it for one registry, a quarter for one blob.
  std::array<uint32_t, kFetchClassCount> fetches_max = {64, 64, 16, 8};
  uint32_t readahead_bytes_max = 8 << 20;  // the widest window of a stream
  ReadaheadMode readahead_mode = ReadaheadMode::kAdaptive;
  Duration fetch_timeout = std::chrono::seconds(60);  // of a fetch below demand, from when it starts
  Duration first_byte_budget = SourcePlanner::kFirstByteBudget;
  FillFlows::Limits fill_flows = {};
  uint64_t offer_bytes_max = 64 << 20;  // offered and not done yet; beyond it an offer is refused
};

// The one entry of the cache. A read is answered from the store, and what is absent is fetched first, each
// chunk once however many wait for it, verified and committed before anyone sees it.
//
// Thread-safe: all but the destructor may be called on any thread; callbacks run on the core loop, exactly
// once, also when the cache is destroyed first (with Cancelled). All other state is owned by the core loop.
class BlobCache final : public ChunkSink {
 public:
  struct Parts {
    Clock& clock;
    Executor& core;  // serial
    Executor& io;    // pool
    ChunkStore& store;
    ChunkVerifier& verifier;
    SourceDirectory& sources;
    Telemetry& telemetry;
    BulkLane* bulk = nullptr;  // outlives the cache; null: fills ask the sources for everything
    std::vector<ChunkObserver*> observers = {};  // outlive the cache
    ChunkFlows* flows = nullptr;  // who passes chunks on as they come; outlives the cache; null: nobody does
  };

  BlobCache(Parts parts, BlobCacheLimits limits);
  // REQUIRES: on the core loop, also within a callback of the cache's own; or the loop has ended. What was
  // not answered yet is answered before this returns. Tasks of the cache's that still run on the executors
  // use its parts.
  ~BlobCache() override;
  BlobCache(const BlobCache&) = delete;
  BlobCache& operator=(const BlobCache&) = delete;

  // Brings in what is absent, as the request's mode allows. A demand read waits, within its deadline, for a
  // source that is not there just now, also when the others have said that they lack the chunk.
  //
  // Errors given to `done`: NotFound (no such blob, nobody has it, or nothing to join), OutOfRange (past the
  // blob's end), DataLoss (the blob is refused, or a chunk failed verification twice), DeadlineExceeded,
  // ResourceExhausted (too many readers; no space), Cancelled (stopped), Unavailable and what else the last
  // source said.
  ReadId Read(ReadRequest request, ReadDone done);
  // Ends a read with Cancelled; what is under way for nobody else is cancelled. No-op if it has ended.
  void StopRead(ReadId id);

  // What is present now: a lease under which the range may be read, or NotFound (no such blob, or not all of
  // the range is present), OutOfRange, DataLoss (the blob is refused). Opens nothing, and takes no disk
  // access.
  absl::StatusOr<Blob::Lease> Lookup(const BlobKey& key, ByteRange range) const;

  // Fetches what is absent; watch the progress in Blob::presence(). A chunk that can't be had ends the fill
  // with its error; NotFound also if there is no such blob. REQUIRES: the class is not kDemand
  FillId Fill(FillRequest request, FillDone done);
  // Ends a fill with Cancelled and gives back its lease; what is under way for nobody else is cancelled.
  // No-op if it has ended.
  void StopFill(FillId id);

  // Readers have read chunks that were present, unseen by the cache. Nothing if there is no such blob. Any
  // thread.
  void NoteTouched(const BlobKey& key, ChunkSet touched);

  // Whether anything is read ahead of readers from now on. What was asked for already still comes.
  enum class Readahead { kAllowed, kEnded };
  void SetReadahead(Readahead readahead);

  // What it does at the moment when the core loop comes to it. `done` is dropped if the loop ends before.
  using ActivityDone = absl::AnyInvocable<void(CacheActivity) &&>;
  void Observe(ActivityDone done);

  // As ChunkSink says; also Cancelled, when the cache is gone.
  void Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence, SourceKind kind,
             ChunkSink::OnDone on_done) override;

 private:
  class Core;
  const std::shared_ptr<Core> core_;
  std::atomic<uint64_t> next_fill_{1};
};

}  // namespace sluice
