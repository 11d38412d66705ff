#include "node/fills.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

// Of one fetch: a reader that comes in between waits for no more.
constexpr uint64_t kStepBytes = 4 << 20;
// How often a fill looks again at what it left to the bulk lane.
constexpr Duration kBulkLookInterval = std::chrono::milliseconds(200);

}  // namespace

class Fills::Fill final : public WorkSource, public std::enable_shared_from_this<Fill> {
 public:
  Fill(Fills& fills, FillId id, Blob::Lease lease, FillRequest request, FillDone done)
      : fills_(fills),
        id_(id),
        lease_(std::move(lease)),
        fetch_class_(request.fetch_class),
        wanted_(request.chunks.empty() ? std::vector<ChunkSpan>{blob().geometry().All()}
                                       : std::move(request.chunks)),
        grant_(std::move(request.grant)),
        done_(std::move(done)) {
    BeginRound();
  }

  Blob& blob() const { return lease_.blob(); }
  const std::shared_ptr<Blob>& shared_blob() const { return lease_.shared(); }
  FetchClass fetch_class() const { return fetch_class_; }

  void Begin() {
    if (!EndIfOver()) Offer();
  }
  void Leave() { fills_.parts_.scheduler.Drop(*this, blob(), fetch_class_); }
  void TellDone(const absl::Status& status) {
    lease_.Release();
    std::move(done_)(status);
  }

  Grant grant() const override { return grant_; }

  std::optional<ChunkSpan> Next(uint32_t count_max, Instant) override {
    const uint64_t step = std::max<uint64_t>(1, kStepBytes / blob().geometry().chunk_size());
    const ChunkSpan run = NextRun(static_cast<uint32_t>(std::min<uint64_t>(step, count_max)));
    if (run.count > 0) {
      ++runs_;
      return run;
    }
    if (runs_ == 0) LookAgainLater();
    return std::nullopt;
  }

  void Ended(ChunkSpan, const absl::Status& status) override {
    --runs_;
    error_ = status;
    if (!EndIfOver()) Offer();
  }

 private:
  void Offer() { fills_.parts_.scheduler.Ready(shared_from_this(), shared_blob(), fetch_class_); }

  // Whether the fill has ended.
  bool EndIfOver() {
    const bool all = runs_ == 0 && std::all_of(wanted_.begin(), wanted_.end(), [&](ChunkSpan span) {
                       return blob().presence().AllPresent(span);
                     });
    if (error_.ok() && !all) return false;
    fills_.End(id_, error_);
    return true;
  }

  // The next absent chunks that nothing else brings; count is 0 at the end of the round.
  ChunkSpan NextRun(uint32_t count_max) {
    for (; span_ < spans_.size(); ++span_, next_ = ChunkIndex(0)) {
      const ChunkSpan span = spans_[span_];
      const ChunkIndex from = std::max(next_, span.first);
      ChunkSpan run{from, 0};
      while (run.end() < span.end() && run.count < count_max) {
        const bool wanted = IsWanted(run.end());
        if (wanted) {
          ++run.count;
        } else if (run.count > 0) {
          break;
        } else {
          run.first = run.first.next();
        }
      }
      next_ = run.end();
      if (run.count > 0) return run;
    }
    return {};
  }

  bool IsWanted(ChunkIndex index) const {
    if (blob().presence().IsPresent(index)) return false;
    if (!IsFill(fetch_class_) || !fills_.parts_.bulk) return true;
    return !fills_.parts_.bulk->Carries(blob(), index);
  }

  void BeginRound() {
    spans_.clear();
    for (const ChunkSpan span : wanted_) {
      const std::vector<ChunkSpan> parts = fills_.parts_.sources.FillOrder(blob(), span);
      spans_.insert(spans_.end(), parts.begin(), parts.end());
    }
    span_ = 0;
    next_ = ChunkIndex(0);
  }

  // Another round, for what the lane carried and what was taken back behind this one.
  void LookAgainLater() {
    BeginRound();
    if (looks_again_) return;
    looks_again_ = true;
    fills_.parts_.core.PostAt(fills_.parts_.clock.Now() + kBulkLookInterval, [weak = weak_from_this()] {
      const auto self = weak.lock();
      if (!self) return;
      self->looks_again_ = false;
      self->Begin();
      self->fills_.parts_.pump();
    });
  }

  Fills& fills_;
  const FillId id_;
  Blob::Lease lease_;
  const FetchClass fetch_class_;
  const std::vector<ChunkSpan> wanted_;
  const Grant grant_;
  FillDone done_;
  std::vector<ChunkSpan> spans_;  // what is wanted, in the order of this round
  size_t span_ = 0;               // that this round is at
  ChunkIndex next_{};             // in it: the first chunk that the round has not looked at
  int runs_ = 0;                  // under way
  bool looks_again_ = false;
  absl::Status error_;
};

Fills::Fills(Parts parts) : parts_(std::move(parts)) {}
Fills::~Fills() = default;

void Fills::Start(FillId id, Blob::Lease lease, FillRequest request, FillDone done) {
  // What is read ahead is wanted sooner than the lane brings it.
  if (IsFill(request.fetch_class)) JoinBulk(lease.shared());
  const auto fill = std::make_shared<Fill>(*this, id, std::move(lease), std::move(request), std::move(done));
  fills_.emplace(id, fill);
  fill->Begin();
}

void Fills::End(FillId id, const absl::Status& status) {
  const auto found = fills_.find(id);
  if (found == fills_.end()) return;
  const std::shared_ptr<Fill> fill = std::move(found->second);
  fills_.erase(found);
  fill->Leave();
  parts_.cancel_runs(*fill);
  if (IsFill(fill->fetch_class())) LeaveBulk(fill->blob());
  fill->TellDone(status);
}

void Fills::Stop(FillId id) {
  End(id, absl::CancelledError("the fill was stopped"));
}

void Fills::StopAll(const absl::Status& why) {
  std::vector<FillId> ids;
  for (const auto& [id, fill] : fills_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (const FillId id : ids) End(id, why);
}

void Fills::JoinBulk(const std::shared_ptr<Blob>& blob) {
  if (parts_.bulk && bulk_users_[blob->key()]++ == 0) parts_.bulk->Join(blob);
}

void Fills::LeaveBulk(const Blob& blob) {
  if (!parts_.bulk || --bulk_users_.at(blob.key()) > 0) return;
  bulk_users_.erase(blob.key());
  parts_.bulk->Leave(blob);
}

}  // namespace sluice
