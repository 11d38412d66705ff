#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/read_request.h"
#include "node/source_planner.h"
#include "node/telemetry.h"

namespace sluice {

// Names a leg under way, a pause; never given twice.
using LegId = uint64_t;  // in the order in which they began
using PauseId = uint64_t;
inline constexpr LegId kNoLeg = 0;

// When a chunk was asked for and as what, when the first of what was asked for with it came, when it came,
// and when it was verified. Instant() where it came otherwise.
struct ChunkTimes {
  Instant asked{}, first_byte{}, came{}, verified{};
  FetchClass asked_as = FetchClass::kDemand;
};

// An absent chunk that somebody wants.
//
//   queued -> under way (one leg, or two) -> gone: stored, or it can't be had
//     ^           |
//     +-- paused <+   nobody can be asked just now
struct WantedChunk {
  enum class State { kQueued, kUnderWay, kPaused };
  static constexpr size_t kLegsMax = 2;

  State state = State::kQueued;
  FetchClass fetch_class = FetchClass::kBackfill;  // the highest of those who want it
  Asker asker = Asker::kLocal;                     // the last right of those who wait: see Asker
  PauseId pause = 0;                               // while paused
  absl::InlinedVector<LegId, kLegsMax> legs;       // under way; the first that is stored wins
  absl::InlinedVector<ReadId, 2> waiters;
  absl::InlinedVector<ReadId, 1> joined;  // wait too, but nothing is started for them: see ReadMode
  TriedSources tried;                     // since the last pause
  int store_tries = 0;                    // how often it came and could not be stored, since the last pause
  int pauses = 0;
  // The error of the source of the highest rank that was tried, the last one: what readers are told.
  absl::Status error;
  SourceRank error_rank = SourceRank::kHome;
  bool source_away = false;  // one that was tried was not there just now, since the last pause

  // Whether it may be had when the sources are asked anew. That one says no for good does not hide that
  // another was not there; that one has sent wrong bytes does: they would only come again.
  bool MayComeLater() const {
    return absl::IsUnavailable(error) || (source_away && !absl::IsDataLoss(error));
  }
  // What other nodes are told. What this node's disk does not take another's may, whatever is wrong with it.
  absl::Status ErrorForNodes() const {
    if (store_tries == 0 || !absl::IsUnavailable(error)) return error;
    return absl::ResourceExhaustedError(error.message());
  }
  // Whether it was one of those that wait.
  bool Leave(ReadId id) { return Remove(waiters, id) || Remove(joined, id); }
  // The one that is under way beside it; kNoLeg if none is.
  LegId OtherThan(LegId id) const {
    const auto other = std::find_if(legs.begin(), legs.end(), [&](LegId leg) { return leg != id; });
    return other == legs.end() ? kNoLeg : *other;
  }
  // Whether it was one of those under way.
  bool EndLeg(LegId id) { return Remove(legs, id); }

  void NoteError(SourceRank rank, absl::Status status) {
    if (!error.ok() && rank < error_rank) return;
    error = std::move(status);
    error_rank = rank;
  }

 private:
  template <typename Ids>
  static bool Remove(Ids& ids, uint64_t id) {
    const auto left = std::remove(ids.begin(), ids.end(), id);
    const bool was_there = left != ids.end();
    ids.erase(left, ids.end());
    return was_there;
  }
};

// Single flight: every absent chunk that somebody wants stands here once, whoever else comes to want it.
//
// Owned by the core loop. Not thread-safe.
class FetchTable {
 public:
  // `size` is kept equal to size(), and outlives it; may be null.
  explicit FetchTable(Gauge* size = nullptr) : size_gauge_(size) {}

  // The chunk's entry, or nullptr if nobody wants it. The pointer is good until the table is changed.
  WantedChunk* Find(const Blob& blob, ChunkIndex index);

  // The same, and a new one that is queued if there was none.
  struct Opened {
    WantedChunk* chunk;
    bool is_new;
  };
  Opened Open(const std::shared_ptr<Blob>& blob, ChunkIndex index, FetchClass fetch_class);

  // Takes the entry out, with its waiters. Nothing if it is not there.
  std::optional<WantedChunk> Close(const Blob& blob, ChunkIndex index);

  // In no order. REQUIRES: `visit` does not change the table
  void ForEach(absl::FunctionRef<void(const Blob&, ChunkIndex, const WantedChunk&)> visit) const;

  size_t size() const { return chunks_.size(); }

 private:
  using Key = std::pair<const Blob*, ChunkIndex>;
  struct Held {
    std::shared_ptr<Blob> blob;  // keeps the key's address from being used again
    WantedChunk chunk;
  };
  void SetGauge() const {
    if (size_gauge_) size_gauge_->Set(static_cast<int64_t>(chunks_.size()));
  }

  Gauge* const size_gauge_;
  absl::flat_hash_map<Key, Held> chunks_;
};

}  // namespace sluice
