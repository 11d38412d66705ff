#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "node/fetch_runner.h"

namespace sluice {

// What a source has delivered of a leg: it may only deliver what it was asked for, and once. The source's
// callbacks hold it. Thread-safe.
class FetchRunner::Inbox {
 public:
  Inbox(std::weak_ptr<FetchRunner> the_runner, LegId the_leg, const LegOrder& order, const Clock& clock,
        FetchProgress::OnChange on_change, FetchProgress::OnChange on_break)
      : runner(std::move(the_runner)),
        leg(the_leg),
        blob(order.blob),
        source(*order.leg.source),
        progress(clock, std::move(on_change), std::move(on_break)),
        asked_(order.leg.chunks),
        came_((order.leg.chunks.count + 63) / 64) {}

  bool Came(ChunkIndex index) const {
    const std::lock_guard lock(mutex_);
    return CameLocked(index);
  }
  // Whether the chunk may be taken.
  bool Take(ChunkIndex index, uint64_t length) {
    const std::lock_guard lock(mutex_);
    const bool asked_for = asked_.first <= index && index < asked_.end();
    if (asked_for && !CameLocked(index) && length == blob->geometry().RangeOf(index).length) {
      const uint32_t position = index.value() - asked_.first.value();
      came_[position / 64] |= uint64_t{1} << (position % 64);
      ++count_;
      return true;
    }
    if (fault_.ok()) {
      fault_ = absl::DataLossError(absl::StrCat("the source sent ", length, " bytes as chunk ", index.value(),
                                                ", for which it was not asked"));
    }
    return false;
  }
  // The source has said that it is done.
  void Close(absl::Status status) {
    const std::lock_guard lock(mutex_);
    if (fault_.ok()) fault_ = std::move(status);
  }
  uint32_t count() const {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  // How many came, and what is to be said against the source. REQUIRES: it is closed
  std::pair<uint32_t, absl::Status> Outcome() const {
    const std::lock_guard lock(mutex_);
    return {count_, fault_};
  }

  // Constant after construction, or thread-safe.
  const std::weak_ptr<FetchRunner> runner;
  const LegId leg;
  const std::shared_ptr<Blob>& blob;
  ChunkSource& source;
  FetchProgress progress;

 private:
  bool CameLocked(ChunkIndex index) const {
    const uint32_t position = index.value() - asked_.first.value();
    return came_[position / 64] >> (position % 64) & 1;
  }

  const ChunkSpan asked_;
  mutable std::mutex mutex_;  // guards what follows
  absl::InlinedVector<uint64_t, 1> came_;
  uint32_t count_ = 0;
  absl::Status fault_;
};

// A leg under way. What the source holds of it, its inbox, keeps all of it alive; what it holds itself is let
// go of on the core loop when it has ended.
struct FetchRunner::Running {
  Running(std::weak_ptr<FetchRunner> runner, LegId id, LegOrder the_order, FetchScheduler::Slot the_slot,
          const Clock& clock, FetchProgress::OnChange on_change, FetchProgress::OnChange on_break)
      : order(std::move(the_order)),
        inbox(std::move(runner), id, order, clock, std::move(on_change), std::move(on_break)),
        slot(std::move(the_slot)),
        started(clock.Now()),
        begun_as(order.fetch_class),
        wanted((order.leg.chunks.count + 63) / 64, ~uint64_t{0}),
        wanted_count(order.leg.chunks.count) {}

  LegOrder order;  // constant but for its class
  Inbox inbox;

  // Owned by the core loop.
  FetchScheduler::Slot slot;
  FetchHandle handle;
  const Instant started;
  const FetchClass begun_as;
  Instant late_at{};                        // when it is looked at next; never if Instant()
  bool noted_silent = false;                // the planner has been told
  bool yielded = false;                     // it was a fill's, and has made room
  absl::InlinedVector<uint64_t, 1> wanted;  // a bit for each chunk of the leg
  uint32_t wanted_count;
  uint32_t brought = 0;    // chunks that came of it first
  uint32_t settled = 0;    // chunks that came, and were stored or not
  uint32_t delivered = 0;  // known when the status is
  std::optional<absl::Status> status;
};

}  // namespace sluice
