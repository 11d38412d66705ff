#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "node/deadlines.h"
#include "node/fetch_table.h"
#include "node/read_request.h"
#include "node/work_source.h"

namespace sluice {

// A read of which chunks are still to come.
struct PendingRead {
  std::shared_ptr<Blob> blob;
  Blob::Lease lease = {};  // none where nobody waits: it may be evicted under what is only read ahead
  ByteRange range;
  FetchClass fetch_class = FetchClass::kDemand;
  Asker asker = Asker::kLocal;
  Grant grant = nullptr;
  ReadMode mode = ReadMode::kFetch;
  Instant started;
  Instant deadline;
  const WorkSource* work = nullptr;  // whose it is, if nobody waits for it; only to be compared
  uint32_t outstanding = 0;          // chunks still to come
  SourceKind farthest = SourceKind::kLocal;
  std::optional<ChunkTimes> last_times = {};  // of the chunk that came last; nothing if none has
  ReadDone done;

  ChunkSpan chunks() const { return blob->geometry().Covering(range); }
};

// The reads of which chunks are still to come, each with its deadline: those that somebody waits for, and the
// runs of work under way.
//
// Owned by the core loop. Not thread-safe, but for NewId.
class ReadTable {
 public:
  // Any thread.
  ReadId NewId() { return next_id_.fetch_add(1, std::memory_order_relaxed); }
  // The reference is good until the table is changed.
  PendingRead& Add(ReadId id, PendingRead&& read) {
    deadlines_.Add(read.deadline, id);
    if (!read.work) ++waiting_;
    return reads_.emplace(id, std::move(read)).first->second;
  }
  // Null if it has been answered. The pointer is good until the table is changed.
  PendingRead* Find(ReadId id) {
    const auto found = reads_.find(id);
    return found == reads_.end() ? nullptr : &found->second;
  }
  std::optional<PendingRead> Take(ReadId id) {
    const auto found = reads_.find(id);
    if (found == reads_.end()) return std::nullopt;
    std::optional<PendingRead> read = std::move(found->second);
    reads_.erase(found);
    deadlines_.Prune(reads_.size(), [&](ReadId other) { return reads_.contains(other); });
    if (!read->work) --waiting_;
    return read;
  }
  // In no order. REQUIRES: `visit` does not change the table
  void ForEach(absl::FunctionRef<void(const PendingRead&)> visit) const {
    for (const auto& [id, read] : reads_) visit(read);
  }
  size_t size() const { return reads_.size(); }
  // Those that somebody waits for.
  size_t waiting() const { return waiting_; }

  // Both in the order in which they came.
  std::vector<ReadId> OfWork(const WorkSource& work) const {
    std::vector<ReadId> ids;
    for (const auto& [id, read] : reads_) {
      if (read.work == &work) ids.push_back(id);
    }
    std::sort(ids.begin(), ids.end());
    return ids;
  }
  std::vector<ReadId> All() const {
    std::vector<ReadId> ids;
    for (const auto& [id, read] : reads_) ids.push_back(id);
    std::sort(ids.begin(), ids.end());
    return ids;
  }

  // As Deadlines says. What is overdue stays in the table; what was answered is not there any more.
  std::optional<Instant> Arm() { return deadlines_.Arm(); }
  std::vector<ReadId> Overdue(Instant armed, Instant now) { return deadlines_.TakeDue(armed, now); }

 private:
  std::atomic<ReadId> next_id_{1};
  absl::flat_hash_map<ReadId, PendingRead> reads_;
  size_t waiting_ = 0;
  Deadlines<ReadId> deadlines_;
};

}  // namespace sluice
