#include "p2p/cluster/last_resort.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {

// One fetch, from when it was asked for. Its turn comes once, or never.
class LastResortSource::Waiting final : public FetchControl {
 public:
  Waiting(std::weak_ptr<Shared> shared, FetchRequest the_request, OnChunk the_on_chunk, OnDone the_on_done)
      : shared_(std::move(shared)),
        request_(std::move(the_request)),
        on_chunk_(std::move(the_on_chunk)),
        on_done_(std::move(the_on_done)),
        fetch_class_(request_.fetch_class) {}

  uint64_t bytes() const { return request_.blob->geometry().RangeOf(request_.chunks).length; }
  Instant deadline() const { return request_.deadline; }
  FetchClass fetch_class() const {
    const std::lock_guard lock(mutex_);
    return fetch_class_;
  }

  // REQUIRES: it is its turn; neither this nor Fail was called
  void Start(const std::shared_ptr<Shared>& shared);
  void Fail(const absl::Status& status) { std::move(on_done_)(status); }

  void Raise(FetchClass fetch_class) override {
    const std::lock_guard lock(mutex_);
    fetch_class_ = std::min(fetch_class_, fetch_class);
    handle_.Raise(fetch_class);
  }
  void Cancel() override;

 private:
  const std::weak_ptr<Shared> shared_;
  FetchRequest request_;
  OnChunk on_chunk_;
  OnDone on_done_;

  mutable std::mutex mutex_;  // guards what follows
  FetchClass fetch_class_;
  bool cancelled_ = false;
  FetchHandle handle_;  // of the origin, once it is asked
};

struct LastResortSource::Shared : public std::enable_shared_from_this<Shared> {
  Shared(const Parts& the_parts, uint64_t the_bytes_per_second)
      : parts(the_parts), bytes_per_second(the_bytes_per_second), filled_at(the_parts.clock.Now()) {
    budget = Rate();
  }

  double Rate() const {
    const size_t members = std::max<size_t>(1, parts.table_size());
    return static_cast<double>(std::max<uint64_t>(bytes_per_second, kClusterBytesPerSecond / members));
  }

  void Add(std::shared_ptr<Waiting> waiting) {
    {
      const std::lock_guard lock(mutex);
      queue.push_back(std::move(waiting));
    }
    Pump();
  }

  // Takes it out of the queue. False if it is not there any more.
  bool Remove(const Waiting* waiting) {
    const std::lock_guard lock(mutex);
    return std::erase_if(queue, [&](const auto& queued) { return queued.get() == waiting; }) > 0;
  }

  void Ended() {
    {
      const std::lock_guard lock(mutex);
      --under_way;
    }
    Pump();
  }

  // Starts what may start, ends what is too late, and looks again when that may change.
  void Pump() {
    std::vector<std::shared_ptr<Waiting>> started, late;
    {
      const std::lock_guard lock(mutex);
      const Instant now = parts.clock.Now();
      Refill(now);
      for (auto it = queue.begin(); it != queue.end();) {
        if ((*it)->deadline() > now) {
          ++it;
          continue;
        }
        late.push_back(std::move(*it));
        it = queue.erase(it);
      }
      // What is left of it may go below zero once: one fetch may be longer than a second's budget.
      while (!queue.empty() && under_way < kUnderWayMax && budget > 0) {
        const auto next = std::min_element(queue.begin(), queue.end(), [](const auto& a, const auto& b) {
          return a->fetch_class() < b->fetch_class();
        });
        budget -= static_cast<double>((*next)->bytes());
        parts.telemetry.last_resort_bytes.Add((*next)->bytes());
        ++under_way;
        started.push_back(std::move(*next));
        queue.erase(next);
      }
      ArmTimer(now);
    }
    for (const auto& waiting : late) {
      waiting->Fail(absl::DeadlineExceededError(
          absl::StrCat("no member could be asked, and the budget for asking the registry beside them "
                       "(peers.lastResortRate, ",
                       bytes_per_second, " bytes/s) was used up")));
    }
    for (const auto& waiting : started) waiting->Start(shared_from_this());
  }

  void Refill(Instant now) {
    const double rate = Rate();
    budget = std::min(rate, budget + rate * std::chrono::duration<double>(now - filled_at).count());
    filled_at = now;
  }

  void ArmTimer(Instant now) {
    if (queue.empty()) return;
    Instant next = Instant::max();
    for (const auto& waiting : queue) next = std::min(next, waiting->deadline());
    if (under_way < kUnderWayMax) {
      const auto refilled = std::chrono::duration<double>(std::max(0.0, 1 - budget) / Rate());
      next = std::min(
          next, now + std::chrono::ceil<std::chrono::milliseconds>(refilled) + std::chrono::milliseconds(1));
    }
    if (timer_at != Instant() && timer_at <= next && timer_at > now) return;
    timer_at = next;
    parts.io.PostAt(next, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Pump();
    });
  }

  const Parts parts;
  const uint64_t bytes_per_second;

  std::mutex mutex;  // guards what follows
  std::deque<std::shared_ptr<Waiting>> queue;
  uint32_t under_way = 0;
  double budget = 0;  // bytes
  Instant filled_at;
  Instant timer_at{};
};

void LastResortSource::Waiting::Start(const std::shared_ptr<Shared>& shared) {
  FetchHandle handle =
      shared->parts.origin.Fetch(std::move(request_), std::move(on_chunk_),
                                 [shared, on_done = std::move(on_done_)](absl::Status status) mutable {
                                   std::move(on_done)(std::move(status));
                                   shared->Ended();
                                 });
  const std::lock_guard lock(mutex_);
  handle.Raise(fetch_class_);
  if (!cancelled_) handle_ = std::move(handle);
}

void LastResortSource::Waiting::Cancel() {
  FetchHandle dropped;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    dropped = std::move(handle_);
  }
  const std::shared_ptr<Shared> shared = shared_.lock();
  if (shared && shared->Remove(this)) Fail(absl::CancelledError("nobody wants it any more"));
}

LastResortSource::LastResortSource(const Parts& parts, uint64_t bytes_per_second)
    : shared_(std::make_shared<Shared>(parts, bytes_per_second)) {}

LastResortSource::~LastResortSource() {
  std::deque<std::shared_ptr<Waiting>> waiting;
  {
    const std::lock_guard lock(shared_->mutex);
    waiting.swap(shared_->queue);
  }
  for (const auto& one : waiting) one->Fail(absl::CancelledError("the node is stopping"));
}

FetchHandle LastResortSource::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  auto waiting =
      std::make_shared<Waiting>(shared_, std::move(request), std::move(on_chunk), std::move(on_done));
  shared_->Add(waiting);
  return FetchHandle(std::move(waiting));
}

void LastResortSource::Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) {
  shared_->parts.origin.Judge(sender, blob, index, verdict);
}

}  // namespace sluice::p2p
