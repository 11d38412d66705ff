#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "node/work_source.h"

namespace sluice {

// A run of chunks of one blob that is to be fetched.
struct FetchRun {
  std::shared_ptr<Blob> blob;
  ChunkSpan chunks;
  FetchClass fetch_class = FetchClass::kDemand;
  std::shared_ptr<WorkSource> work = nullptr;  // whose it is; null for what readers wait for
};

// Which fetch goes next. Demand strictly first; all below it have at most half of the bytes, and share what
// they get by the weights of their classes: while all have something to start, readahead starts four bytes
// and hint two for each one of backfill, and what one can't use the others have. Each class has its bound of
// fetches under way.
//
// Within a class registries take turns, and the blobs of each. A registry may have no more under way than it
// leaves free for the others, and a blob no more than it leaves free for the others of its registry: one that
// stalls holds up the rest neither of its slots nor of its bytes. A registry that has nothing under way may
// always start one chunk, however large, if a slot is free.
//
// What readers wait for is pushed, and bounded by their number. All else is pulled from a WorkSource when
// there is room.
//
// Owned by the core loop. Not thread-safe.
class FetchScheduler {
  struct Share;

 public:
  struct Limits {
    std::array<uint32_t, kFetchClassCount> fetches_max;  // under way at once
    uint64_t inflight_bytes_max;                         // asked for and not yet stored
    uint32_t fetch_bytes_max;                            // of one run; at least one chunk
  };

  // The place of a fetch that is under way, and the bytes that it has still to bring. Gives back what is left
  // of them when it goes. The scheduler outlives it.
  class Slot {
   public:
    Slot() = default;
    Slot(Slot&& other) noexcept { Swap(other); }
    Slot& operator=(Slot&& other) noexcept {
      Swap(other);
      return *this;
    }
    ~Slot();
    // So many of its bytes have been stored or given up.
    void Arrived(uint64_t bytes);
    // Gives back all but so many of its bytes. False if it is nobody's place.
    bool CutTo(uint64_t bytes);

   private:
    friend class FetchScheduler;
    void Swap(Slot& other) {
      std::swap(scheduler_, other.scheduler_);
      std::swap(share_, other.share_);
      std::swap(of_class_, other.of_class_);
      std::swap(bytes_, other.bytes_);
    }
    FetchScheduler* scheduler_ = nullptr;
    Share* share_ = nullptr;  // it stays while something of it is under way
    int of_class_ = 0;
    uint64_t bytes_ = 0;
  };

  static constexpr size_t kRegistriesKept = 64;  // though they have nothing just now
  // What each class below demand gets while all of them have something to start.
  static constexpr std::array<uint32_t, kFetchClassCount> kWeights = {0, 4, 2, 1};

  // `telemetry` outlives it; null: nothing is counted.
  FetchScheduler(const Clock& clock, Limits limits, Telemetry* telemetry = nullptr)
      : clock_(clock), limits_(limits), telemetry_(telemetry) {}
  FetchScheduler(const FetchScheduler&) = delete;
  FetchScheduler& operator=(const FetchScheduler&) = delete;

  // Queues what readers wait for.
  void Push(const std::shared_ptr<Blob>& blob, ChunkSpan chunks, FetchClass fetch_class);
  // `work` has something to bring: it is asked in its turns until it has nothing more. No-op if it is asked
  // already.
  void Ready(const std::shared_ptr<WorkSource>& work, const std::shared_ptr<Blob>& blob,
             FetchClass fetch_class);
  // It is not asked any more. No-op if it was not.
  void Drop(const WorkSource& work, const Blob& blob, FetchClass fetch_class);

  // Whether fills may start: while they may not they keep their turns.
  enum class Fills { kMayStart, kWait };
  // Whether any fill has something to start, or had when it was asked last.
  bool HasFills() const;
  // The next run that may start, cut to what there is room for, and its place.
  struct Start {
    FetchRun run;
    Slot slot;
  };
  std::optional<Start> Pop(Fills fills = Fills::kMayStart);
  // A place for another fetch, whatever the bounds.
  Slot Take(const std::shared_ptr<Blob>& blob, ChunkSpan chunks, FetchClass fetch_class);

  uint64_t inflight_bytes() const { return bytes_[0] + bytes_[1]; }

 private:
  // Demand's bytes, and those below it, are counted apart.
  static constexpr int kPoolCount = 2;
  using Bytes = std::array<uint64_t, kPoolCount>;
  static int PoolOf(FetchClass fetch_class) { return fetch_class == FetchClass::kDemand ? 0 : 1; }

  // Runs that wait, in the order in which they came.
  class Runs {
   public:
    bool empty() const { return runs_.empty(); }
    ChunkSpan front() const { return runs_[first_]; }
    void Push(ChunkSpan run) { runs_.push_back(run); }
    // The first run, or so many chunks of it.
    ChunkSpan TakeFront(uint32_t count_max);

   private:
    std::vector<ChunkSpan> runs_;
    size_t first_ = 0;  // those before it are gone; never the last
  };
  // What the blobs of one registry have, in one class. Few bytes while nothing waits.
  struct Lane {
    std::deque<Share*> turns;  // blobs with something to start, next first
    uint32_t under_way = 0;
  };
  struct Registry {
    std::string name;
    std::array<Lane, kFetchClassCount> lanes;
    Bytes bytes{};
    uint32_t blobs = 0;
    int has_turns = 0;  // classes in which it has
  };
  // What one blob has.
  struct Share {
    struct InClass {
      Runs runs;
      std::list<std::shared_ptr<WorkSource>> work;
      uint32_t under_way = 0;
      bool has_turn = false;
    };
    std::shared_ptr<Blob> blob;
    Registry* registry = nullptr;
    std::array<InClass, kFetchClassCount> classes;
    Bytes bytes{};
  };
  struct ClassTurns {
    std::vector<Registry*> turns;  // registries with something to start, next first; few
    uint32_t under_way = 0;
    // What it has started, in bytes of a class of weight 1: the class that has the least goes next.
    uint64_t served = 0;
  };

  Share& ShareOf(const std::shared_ptr<Blob>& blob);
  void Forget(Share& share);
  void Forget(Registry& registry);
  void GiveTurn(Share& share, int of_class);
  std::optional<Start> PopBelowDemand(Fills fills);
  std::optional<Start> PopOfClass(int of_class);
  std::optional<Start> PopOfRegistry(Registry& registry, int of_class);
  std::optional<Start> PopOfShare(Share& share, int of_class, uint32_t count_max);
  Slot PlaceFor(Share& share, int of_class, ChunkSpan chunks);
  bool RegistryMayStart(const Registry& registry, int of_class) const;
  // Chunks that the blob may start now; 0 if none. REQUIRES: its registry may start some
  uint32_t Allowed(const Share& share, int of_class) const;
  uint64_t NextLength(const Share& share, int of_class) const;
  uint64_t BytesFor(const Registry& registry, int pool) const;
  void Arrived(Share& share, int of_class, uint64_t bytes);
  void Finished(Share& share, int of_class);
  void Count(int of_class) const;

  const Clock& clock_;
  const Limits limits_;
  Telemetry* const telemetry_;
  absl::flat_hash_map<std::string, std::unique_ptr<Registry>> registries_;
  absl::flat_hash_map<const Blob*, std::unique_ptr<Share>> shares_;
  std::array<ClassTurns, kFetchClassCount> classes_;
  Bytes bytes_{};
  bool may_start_ = false;  // something has changed since nothing more could start
};

}  // namespace sluice
