#include "p2p/cluster/gated_source.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

namespace sluice::p2p {

// One fetch, from when it was asked for. Its turn comes once, or never.
class GatedSource::Waiting final : public FetchControl {
 public:
  Waiting(std::weak_ptr<Shared> shared, FetchRequest request, OnChunk on_chunk, OnDone on_done)
      : shared_(std::move(shared)),
        request_(std::move(request)),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)),
        bytes_(request_.blob->geometry().RangeOf(request_.chunks).length),
        deadline_(request_.deadline),
        fetch_class_(request_.fetch_class) {}

  uint64_t bytes() const { return bytes_; }
  Instant deadline() const { return deadline_; }
  FetchClass fetch_class() const {
    const std::lock_guard lock(mutex_);
    return fetch_class_;
  }

  // REQUIRES: it is its turn; neither this nor Fail was called
  void Begin(const std::shared_ptr<Shared>& shared, bool counted);
  void Fail(const absl::Status& status) { std::move(on_done_)(status); }

  void Raise(FetchClass fetch_class) override;
  void Cancel() override;

 private:
  const std::weak_ptr<Shared> shared_;
  FetchRequest request_;
  OnChunk on_chunk_;
  OnDone on_done_;
  const uint64_t bytes_;
  const Instant deadline_;

  mutable std::mutex mutex_;  // guards what follows
  FetchClass fetch_class_;
  bool cancelled_ = false;
  FetchHandle handle_;  // of the source, once it is asked
};

struct GatedSource::Shared : public std::enable_shared_from_this<Shared> {
  Shared(const Parts& the_parts, std::unique_ptr<FetchGate> the_gate)
      : parts(the_parts), gate(std::move(the_gate)) {}

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

  void Ended(uint64_t bytes, Instant began, bool cancelled) {
    {
      const std::lock_guard lock(mutex);
      const Instant now = parts.clock.Now();
      if (cancelled) {
        gate->Cancelled(bytes, now);
      } else {
        gate->Ended(bytes, now - began, now);
      }
    }
    Pump();
  }

  // Begins what may begin, ends what is too late, and looks again when that may change.
  void Pump() {
    std::vector<std::pair<std::shared_ptr<Waiting>, bool>> begun;  // and whether it counts
    std::vector<std::shared_ptr<Waiting>> late;
    absl::Status too_late;
    {
      const std::lock_guard lock(mutex);
      const Instant now = parts.clock.Now();
      for (auto it = queue.begin(); it != queue.end();) {
        if ((*it)->deadline() > now && !gate->LetsThrough((*it)->fetch_class())) {
          ++it;
          continue;
        }
        if ((*it)->deadline() > now) {
          begun.emplace_back(std::move(*it), false);
        } else {
          late.push_back(std::move(*it));
        }
        it = queue.erase(it);
      }
      while (!queue.empty() && gate->MayBegin(now)) {
        const auto next = std::min_element(queue.begin(), queue.end(), [](const auto& a, const auto& b) {
          return a->fetch_class() < b->fetch_class();
        });
        gate->Began((*next)->bytes(), now);
        begun.emplace_back(std::move(*next), true);
        queue.erase(next);
      }
      if (!late.empty()) too_late = gate->TooLate();
      ArmTimer(now);
    }
    for (const auto& waiting : late) waiting->Fail(too_late);
    for (const auto& [waiting, counted] : begun) waiting->Begin(shared_from_this(), counted);
  }

  void ArmTimer(Instant now) {
    if (queue.empty()) return;
    Instant next = gate->LookAgainAt(now);
    for (const auto& waiting : queue) next = std::min(next, waiting->deadline());
    if (timer_at > now && timer_at <= next) return;
    timer_at = next;
    parts.io.PostAt(next, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Pump();
    });
  }

  const Parts parts;

  std::mutex mutex;  // guards what follows
  const std::unique_ptr<FetchGate> gate;
  std::deque<std::shared_ptr<Waiting>> queue;
  Instant timer_at{};
};

void GatedSource::Waiting::Begin(const std::shared_ptr<Shared>& shared, bool counted) {
  const Instant began = shared->parts.clock.Now();
  FetchHandle handle = shared->parts.source.Fetch(
      std::move(request_), std::move(on_chunk_),
      [shared, counted, began, bytes = bytes_, on_done = std::move(on_done_)](absl::Status status) mutable {
        const bool cancelled = absl::IsCancelled(status);
        std::move(on_done)(std::move(status));
        if (counted) shared->Ended(bytes, began, cancelled);
      });
  const std::lock_guard lock(mutex_);
  handle.Raise(fetch_class_);
  if (!cancelled_) handle_ = std::move(handle);
}

void GatedSource::Waiting::Raise(FetchClass fetch_class) {
  {
    const std::lock_guard lock(mutex_);
    fetch_class_ = std::min(fetch_class_, fetch_class);
    handle_.Raise(fetch_class);
  }
  if (const std::shared_ptr<Shared> shared = shared_.lock()) shared->Pump();
}

void GatedSource::Waiting::Cancel() {
  FetchHandle dropped;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    dropped = std::move(handle_);
  }
  const std::shared_ptr<Shared> shared = shared_.lock();
  if (shared && shared->Remove(this)) Fail(absl::CancelledError("nobody wants it any more"));
}

GatedSource::GatedSource(const Parts& parts, std::unique_ptr<FetchGate> gate)
    : shared_(std::make_shared<Shared>(parts, std::move(gate))) {}

GatedSource::~GatedSource() {
  std::deque<std::shared_ptr<Waiting>> waiting;
  {
    const std::lock_guard lock(shared_->mutex);
    waiting.swap(shared_->queue);
  }
  for (const auto& one : waiting) one->Fail(absl::CancelledError("the node is stopping"));
}

SourceKind GatedSource::kind() const {
  return shared_->parts.source.kind();
}

FetchHandle GatedSource::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  auto waiting =
      std::make_shared<Waiting>(shared_, std::move(request), std::move(on_chunk), std::move(on_done));
  shared_->Add(waiting);
  return FetchHandle(std::move(waiting));
}

void GatedSource::Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) {
  shared_->parts.source.Judge(sender, blob, index, verdict);
}

void GatedSource::KeptUnproven(SenderId sender, const Blob& blob, ChunkIndex index,
                               std::span<const std::byte> bytes) {
  shared_->parts.source.KeptUnproven(sender, blob, index, bytes);
}

void GatedSource::NoteOutrun(bool stalled) {
  shared_->parts.source.NoteOutrun(stalled);
}

}  // namespace sluice::p2p
