#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "node/blob.h"
#include "node/bulk_lane.h"
#include "node/chunk_intake.h"
#include "node/chunk_observer.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/fetch_runner.h"
#include "node/fetch_scheduler.h"
#include "node/fetch_table.h"
#include "node/read_table.h"
#include "node/source_directory.h"
#include "node/source_planner.h"
#include "node/telemetry.h"

namespace sluice {

using ChunkRuns = absl::InlinedVector<ChunkSpan, 2>;
// Adds a chunk to the last run if it follows it.
void AppendChunk(ChunkRuns& runs, ChunkIndex index);

// Brings in each chunk that somebody wants, once however many wait for it: queues it, has the sources planned
// and asked, asks others when one fails, lacks it or is late, pauses when nobody can be asked, and tells
// those who wait.
//
// Owned by the core loop. Not thread-safe.
class SingleFlight final : private LegEvents {
 public:
  // What it tells of the reads in the table; each may answer the read, and so take it out.
  class Waiters {
   public:
    virtual ~Waiters() = default;
    virtual void ChunkCame(ReadId id, SourceKind kind, const ChunkTimes& times) = 0;
    virtual void ChunkFailed(ReadId id, const absl::Status& status) = 0;
    // Room has been found for a run that a WorkSource gave.
    virtual void StartWork(FetchScheduler::Start start) = 0;
  };
  struct Parts {
    const Clock& clock;
    Executor& core;
    Executor& io;
    ChunkIntake intake;
    SourceDirectory& sources;
    Telemetry& telemetry;
    BulkLane* bulk;
    ReadTable& reads;
    Waiters& waiters;
    std::vector<ChunkObserver*> observers;
    Duration fetch_timeout;      // of fetches below demand
    Duration first_byte_budget;  // as SourcePlanner says
    FillFlows::Limits fill_flows;
    ChunkFlows* flows;  // as BlobCache::Parts says
  };

  SingleFlight(const Parts& parts, FetchScheduler::Limits limits);
  ~SingleFlight() override;

  // A read in the table wants an absent chunk: it waits for it from now on. What has to be queued or started
  // for that is added to `to_start`, in the read's class.
  void Join(ReadId id, PendingRead& read, ChunkIndex index, ChunkRuns& to_start);
  // The same for a read that nothing may be started for: it is told NotFound if there is nothing to join.
  void JoinOthers(ReadId id, PendingRead& read, ChunkIndex index);
  // Queues chunks that Join gave.
  void Queue(const std::shared_ptr<Blob>& blob, const ChunkRuns& runs, FetchClass fetch_class);
  // Starts them at once, in a place that was found for them.
  void StartRuns(const std::shared_ptr<Blob>& blob, const ChunkRuns& runs, FetchClass fetch_class,
                 FetchScheduler::Slot slot);
  // A read does not want its chunks any more: what nobody else waits for of them is cancelled.
  void Forget(ReadId id, const Blob& blob, ChunkSpan chunks);
  // Starts what there is room for.
  void Pump();

  // A chunk has been stored: one that a leg has brought, or one that was not asked of a source, or not by
  // this.
  void Arrived(const std::shared_ptr<Blob>& blob, ChunkIndex index, Evidence evidence, SourceKind kind,
               LegId brought_by = kNoLeg, const ChunkTimes& times = {});
  // Somebody else can be asked for the blob: what is paused for it is tried now.
  void OffersChanged(const Digest& digest);
  // Cancels all; nothing is told any more.
  void Stop();

  // How many chunks come in the time that the first byte of one takes, if the registry alone is asked for the
  // blob, as SourcePlanner says; else 0: other nodes would fetch for others what nobody asked for.
  uint32_t ChunksPerTrip(const PendingRead& read);

  FetchScheduler& scheduler() { return scheduler_; }
  const FetchTable& wanted() const { return table_; }

 private:
  // Chunks in a row that are to be asked for alike.
  struct Group {
    ChunkSpan chunks;
    Asker asker = Asker::kLocal;
    Grant grant;
    Instant deadline;                     // the latest of those who wait
    const TriedSources* tried = nullptr;  // of its first chunk, in the table

    // Whether what follows it is to be asked for alike.
    bool TakesIn(const Group& next) const {
      return chunks.end() == next.chunks.first && asker == next.asker && grant == next.grant &&
             *tried == *next.tried;
    }
  };
  // Chunks in a row of a late leg, of which the same others are under way and were tried.
  struct LateRun {
    ChunkSpan chunks;
    LegId other;  // under way beside it; kNoLeg if none is
    TriedSources tried;
  };
  using LateRunList = absl::InlinedVector<LateRun, 2>;
  // What a leg is to another of its chunks that is late.
  enum class Beside { kNone, kHedge, kTakeover };
  struct Pause {
    std::shared_ptr<Blob> blob;
    std::vector<ChunkIndex> chunks;
  };

  void ChunkStored(LegId id, const LegOrder& order, ChunkIndex index, Evidence evidence,
                   const ChunkTimes& times) override;
  void ChunkWrong(LegId id, const LegOrder& order, ChunkIndex index, const absl::Status& why) override;
  void ChunkNotStored(LegId id, const LegOrder& order, ChunkIndex index, const absl::Status& why) override;
  void LegEnded(LegId id, const LegOrder& order, const absl::Status& status) override;
  void LegLate(LegId id, const LegOrder& order, const LegProgress& progress) override;
  void LegBroke(LegId id, const LegOrder& order) override { DropStale(id, order); }
  void RoomMade() override { Pump(); }

  void GiveUp(const Blob& blob, ChunkIndex index);
  // Who waits for a chunk, without those that have been answered meanwhile.
  void PruneWaiters(WantedChunk& chunk) const;
  // The one of those who wait that may wait for the least. REQUIRES: those that were answered are pruned
  Asker LastAsker(const WantedChunk& chunk) const;
  Instant DemandDeadline(const WantedChunk& chunk) const;
  bool ReaderWaits(const Blob& blob, ChunkSpan chunks);

  Group GroupOf(WantedChunk& chunk, ChunkIndex index) const;
  using Groups = absl::InlinedVector<Group, 2>;
  Groups Startable(const std::shared_ptr<Blob>& blob, ChunkSpan chunks, FetchClass fetch_class);
  void StartGroup(const std::shared_ptr<Blob>& blob, const Group& group, FetchClass fetch_class,
                  FetchScheduler::Slot* slot);
  void StartLeg(const std::shared_ptr<Blob>& blob, const Group& group, Leg leg, FetchClass fetch_class,
                FetchScheduler::Slot slot, Beside why = Beside::kNone);
  void AskByOwnRight(const std::shared_ptr<Blob>& blob, ChunkIndex index);
  bool RaiseLegs(const WantedChunk& chunk, ChunkIndex index, FetchClass fetch_class);
  void AskBesideFill(const std::shared_ptr<Blob>& blob, ChunkIndex index);
  FetchScheduler::Fills FillsNow();
  void YieldFills();
  bool LeaveLeg(const std::shared_ptr<Blob>& blob, ChunkIndex index, LegId id);
  void DropStale(LegId id, const LegOrder& order);
  LateRunList LateRuns(LegId id, const LegOrder& order);
  void HedgeRun(const LateRun& run, const LegOrder& order, const LegProgress& progress);
  void ReplaceSilent(const LateRun& run, LegId id);
  void DropSilent(const LegOrder& order, LegId id, ChunkSpan chunks);
  void StartBeside(const LegOrder& order, Leg leg, Beside why);
  void NoteEnd(WantedChunk& chunk, const LegOrder& order, const absl::Status& status);
  bool RefuseGrant(WantedChunk& chunk, const LegOrder& order, const absl::Status& status);
  void Retry(const std::shared_ptr<Blob>& blob, const std::vector<ChunkIndex>& chunks);
  void NobodyLeft(const std::shared_ptr<Blob>& blob, const std::vector<ChunkIndex>& chunks);
  void RefusePeers(WantedChunk& chunk, const absl::Status& why);
  bool MayBeJoined(const WantedChunk& chunk, ChunkIndex index, ReadMode mode) const;
  void FailJoined(WantedChunk& chunk, const Blob& blob, ChunkIndex index);
  void KeepJoined(WantedChunk& chunk, const Blob& blob, ChunkIndex index,
                  absl::FunctionRef<bool(ReadMode)> which);
  void TellFailed();
  void PauseChunks(const std::shared_ptr<Blob>& blob, std::vector<ChunkIndex> chunks);
  void EndPause(PauseId id);

  Instant Now() const { return parts_.clock.Now(); }

  const Parts parts_;
  bool stopped_ = false;
  FetchTable table_;
  FetchScheduler scheduler_;
  SourcePlanner planner_;
  std::shared_ptr<FetchRunner> runner_;     // after the scheduler, whose places its legs hold
  Instant fills_look_at_ = Instant::max();  // when it is looked again whether fills may start
  PauseId next_pause_ = 1;
  absl::flat_hash_map<PauseId, Pause> pauses_;
  std::shared_ptr<SingleFlight*> self_;                  // what comes late finds null in it
  std::vector<std::pair<ReadId, absl::Status>> failed_;  // and not told yet
  std::vector<Leg> legs_;                                // kept for its memory alone, as the next
  std::vector<SourceOffer> offers_;                      //
};

}  // namespace sluice
