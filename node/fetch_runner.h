#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "node/blob.h"
#include "node/chunk_intake.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/fetch_scheduler.h"
#include "node/fetch_table.h"
#include "node/fill_flows.h"
#include "node/source_planner.h"

namespace sluice {

// A leg and what it was started with.
struct LegOrder {
  Leg leg;
  std::shared_ptr<Blob> blob;
  FetchClass fetch_class = FetchClass::kDemand;
  Asker asker = Asker::kLocal;
  Grant grant;
  Instant deadline;
  bool is_hedge = false;    // asked beside one that is late, of somebody who has the chunks
  bool for_reader = false;  // demand by others than runtimes: once it is there, they may soon want more
};

// What becomes of legs. All on the core loop.
class LegEvents {
 public:
  virtual ~LegEvents() = default;

  virtual void ChunkStored(LegId id, const LegOrder& order, ChunkIndex index, Evidence evidence,
                           const ChunkTimes& times) = 0;
  // What came was wrong. The leg goes on.
  virtual void ChunkWrong(LegId id, const LegOrder& order, ChunkIndex index, const absl::Status& why) = 0;
  // What came could not be verified or stored, and trying again for a while did not help.
  virtual void ChunkNotStored(LegId id, const LegOrder& order, ChunkIndex index, const absl::Status& why) = 0;
  // Nothing more comes of it, what came has been told, and some is still wanted.
  virtual void LegEnded(LegId id, const LegOrder& order, const absl::Status& status) = 0;
  // A leg that a reader waits for is silent, or takes longer than its source mostly does.
  virtual void LegLate(LegId id, const LegOrder& order, const LegProgress& progress) = 0;
  // What had begun to come of it has broken off, and it goes on: its source asks again.
  virtual void LegBroke(LegId id, const LegOrder& order) = 0;
  // Slots or bytes have been given back, or which fills may flow is to be looked at again; comes after the
  // events above.
  virtual void RoomMade() = 0;
};

// The legs under way: asks the sources, has what comes verified and stored, cancels what nobody wants any
// more.
//
// Owned by the core loop, but for what the sources call. Kept alive by the calls that are still to come.
class FetchRunner : public std::enable_shared_from_this<FetchRunner> {
 public:
  struct Parts {
    const Clock& clock;
    Executor& core;
    Executor& io;
    ChunkIntake intake;
    SourcePlanner& planner;
    Telemetry& telemetry;
    FillFlows::Limits fill_flows = {};
    ChunkFlows* flows = nullptr;  // as BlobCache::Parts says
  };

  // How often a store that says "try again" is tried, with what came held in memory; waits double between.
  static constexpr int kStoreTriesMax = 6;
  static constexpr Duration kStoreRetry = std::chrono::milliseconds(10);

  // `events` is called until Stop.
  FetchRunner(const Parts& parts, LegEvents& events)
      : parts_(parts), events_(&events), fills_(parts.fill_flows) {}

  LegId Start(LegOrder order, FetchScheduler::Slot slot);
  // A chunk has come by another way, or nobody wants it. A leg of which nothing is wanted any more is
  // cancelled. No-op if it has ended.
  void Disown(LegId id, ChunkIndex index);
  // The leg goes on in a higher class. No-op if it has ended, or is in that class or a higher one.
  void Raise(LegId id, FetchClass fetch_class);
  // A reader waits for it, too, who may soon want more. No-op if it has ended, or is not of class demand.
  void ReaderJoins(LegId id);
  // Cancels all; no event comes any more.
  void Stop();

  // Whether another leg of a fill may be started. If not: when that is worth asking again.
  bool MayStartFill();
  Instant FillsLookAt() const;
  // Legs of fills that have to make room for readers now, as FillFlows says. They are not told of again
  // unless something has changed.
  std::vector<LegId> FillsInTheWay();
  // Ends a leg without blame: its source is asked no more, and what came whole goes its way. The other chunks
  // are not its own any more, and are returned. REQUIRES: it is under way
  std::vector<ChunkIndex> Yield(LegId id);
  // Whether it is a fill's that has other chunks to bring before this one.
  bool IsBehind(LegId id, ChunkIndex index) const;

  const LegOrder* Find(LegId id) const;
  // Since when nothing has come of a leg whose source is silent, as SourcePlanner says; nothing if it is not,
  // or the leg waits for the store alone.
  std::optional<Instant> SilentSince(LegId id) const;
  // Whether its source is, as SourcePlanner says.
  bool IsStalled(LegId id) const;
  // Whether a chunk of a leg is coming: bytes have come of late, and not only those of other chunks. A
  // registry sends the chunks of a leg one after the other; another node each by itself, so that one may wait
  // while the others come.
  bool Flows(LegId id, ChunkIndex index) const;
  // From now on it is told when the leg is late, whatever its class. No-op if it has ended.
  void Watch(LegId id);
  // Whether a leg's source waits for no other node as for a home, and is neither silent nor stalled.
  bool ComesByOwnRight(LegId id) const;
  size_t size() const { return legs_.size(); }

 private:
  class Inbox;
  struct Arrival;
  struct Running;

  static void Deliver(const std::shared_ptr<Inbox>& inbox, ChunkIndex index, Buffer bytes, SenderId sender);
  static void Verify(const std::shared_ptr<Arrival>& arrival);
  static void Store(const std::shared_ptr<Arrival>& arrival);
  static bool MayTryAgain(Arrival& arrival, const absl::Status& status);
  static void TryAgain(const std::shared_ptr<Arrival>& arrival,
                       void (*step)(const std::shared_ptr<Arrival>&));
  static void Tell(const std::shared_ptr<Arrival>& arrival);
  void Settle(const Arrival& arrival);
  void SourceDone(LegId id);
  void ReaderSeen();
  FetchProgress::OnChange OnFillChange();
  FetchProgress::OnChange OnBreak(LegId id);
  void FillChanged();
  FillFlows::UnderWay UnderWay() const;
  bool Unwant(Running& running, ChunkIndex index);
  void NoteHedge(const Running& running);
  static bool IsOver(const Running& running);
  void End(LegId id);
  static void LetGo(Running& running);
  static void CancelIfUnwanted(Running& running);
  static LegProgress ProgressOf(const Running& running);
  void WatchFor(Running& running, Instant not_before);
  void ArmWatch(Instant when);
  void NoteIfSilent(Running& running, Instant now);
  void LookForLate();

  const Parts parts_;
  LegEvents* events_;  // null once stopped
  LegId next_id_ = 1;
  absl::flat_hash_map<LegId, std::shared_ptr<Running>> legs_;
  size_t demand_count_ = 0;  // of legs_
  FillFlows fills_;
  bool fills_changed_ = false;         // since FillsInTheWay looked
  Instant watch_at_ = Instant::max();  // when late legs are looked for next
};

}  // namespace sluice
