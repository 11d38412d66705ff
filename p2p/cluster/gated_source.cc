#include "p2p/cluster/gated_source.h"

#include <algorithm>
#include <mutex>
#include <utility>

namespace sluice::p2p {

// One fetch, from when it was asked for. Its turn comes once, or never.
class GatedSource::Waiting final : public FetchControl, public GateQueue::Waiting {
 public:
  Waiting(ChunkSource& source, std::weak_ptr<GateQueue> queue, FetchRequest request, OnChunk on_chunk,
          OnDone on_done)
      : source_(source),
        queue_(std::move(queue)),
        request_(std::move(request)),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)),
        blob_(request_.blob),
        bytes_(request_.blob->geometry().RangeOf(request_.chunks).length),
        deadline_(request_.deadline),
        fetch_class_(request_.fetch_class) {}

  uint64_t bytes() const override { return bytes_; }
  Instant deadline() const override { return deadline_; }
  FetchClass fetch_class() const override {
    const std::lock_guard lock(mutex_);
    return fetch_class_;
  }
  bool begins_fill() const override {
    return IsFill(fetch_class()) && blob_->presence().present_count() == 0;
  }
  void Begin(GateQueue::Turn turn) override;
  void Fail(const absl::Status& why) override { std::move(on_done_)(why); }

  void Raise(FetchClass fetch_class) override;
  void Cancel() override;

 private:
  ChunkSource& source_;
  const std::weak_ptr<GateQueue> queue_;
  FetchRequest request_;
  OnChunk on_chunk_;
  OnDone on_done_;
  const std::shared_ptr<Blob> blob_;
  const uint64_t bytes_;
  const Instant deadline_;

  mutable std::mutex mutex_;  // guards what follows
  FetchClass fetch_class_;
  bool cancelled_ = false;
  FetchHandle handle_;  // of the source, once it is asked
};

void GatedSource::Waiting::Begin(GateQueue::Turn turn) {
  FetchHandle handle = source_.Fetch(
      std::move(request_), std::move(on_chunk_),
      [turn = std::move(turn), on_done = std::move(on_done_)](const absl::Status& status) mutable {
        std::move(on_done)(status);
        turn.End(status);
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
  if (const std::shared_ptr<GateQueue> queue = queue_.lock()) queue->Pump();
}

void GatedSource::Waiting::Cancel() {
  FetchHandle dropped;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    dropped = std::move(handle_);
  }
  const std::shared_ptr<GateQueue> queue = queue_.lock();
  if (queue && queue->Remove(this)) Fail(absl::CancelledError("nobody wants it any more"));
}

GatedSource::~GatedSource() {
  queue_->FailAll(absl::CancelledError("the node is stopping"));
}

FetchHandle GatedSource::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  auto waiting =
      std::make_shared<Waiting>(source_, queue_, std::move(request), std::move(on_chunk), std::move(on_done));
  queue_->Add(waiting);
  return FetchHandle(std::move(waiting));
}

void GatedSource::Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) {
  source_.Judge(sender, blob, index, verdict);
}

void GatedSource::KeptUnproven(SenderId sender, const Blob& blob, ChunkIndex index,
                               std::span<const std::byte> bytes) {
  source_.KeptUnproven(sender, blob, index, bytes);
}

void GatedSource::NoteOutrun(bool stalled) {
  source_.NoteOutrun(stalled);
}

}  // namespace sluice::p2p
