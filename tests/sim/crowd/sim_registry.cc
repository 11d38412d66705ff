#include "tests/sim/crowd/sim_registry.h"

#include <algorithm>
#include <utility>

#include "node/chunk_flow.h"
#include "p2p/cluster/assignment.h"
#include "tests/sim/crowd/weightless_buffers.h"

namespace sluice::sim {
namespace {

constexpr uint64_t kFirstBytes = 1 << 10;

}  // namespace

class SimOrigin::Fetching final : public FetchControl, public std::enable_shared_from_this<Fetching> {
 public:
  Fetching(SimOrigin& origin, FetchRequest request, OnChunk on_chunk, OnDone on_done)
      : origin_(origin),
        request_(std::move(request)),
        next_(request_.chunks.first),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)) {}

  void Start() {
    ++origin_.registry_.requests;
    origin_.wire_.Later(SimRegistry::kTrip, [self = shared_from_this()] { self->Answer(); });
  }
  // Whether it is under way, and nothing else comes by its answer.
  bool LetsFollow() const { return on_done_ && !next_fetching_; }
  void SetNext(std::shared_ptr<Fetching> next) { next_fetching_ = std::move(next); }
  void Raise(FetchClass) override {}
  void Cancel() override {
    if (!on_done_) return;
    if (transfer_) Count(Length() - origin_.wire_.links.Stop(*transfer_));
    if (transfer_) origin_.port_.coming.erase(next_);
    chunk_ = {};
    End(absl::CancelledError("nobody wants it any more"));
  }

 private:
  // What comes at first of the next chunk.
  void Begin() {
    chunk_ = ChunkInflow(request_.flows, request_.blob->key(), next_, Length(), {});
    origin_.port_.coming.try_emplace(next_, transfer_);
    chunk_.Add(WeightlessBytes().first(std::min(kFirstBytes, Length() - 1)));
  }

  uint64_t Length() const { return request_.blob->geometry().RangeOf(next_).length; }
  void Count(uint64_t bytes) { origin_.registry_.bytes += bytes; }

  void Answer() {
    if (!on_done_ || origin_.port_.node.dead()) return;
    request_.progress->Add(1);
    // Before any chunk can be passed on.
    origin_.ledger_.NoteAccess(request_.blob->key(), request_.blob->facts()->origins.front(),
                               OriginAccess::kPublic);
    transfer_ = origin_.wire_.links.Start(origin_.registry_.up, origin_.port_.down, Length(),
                                          [weak = weak_from_this()] {
                                            const auto self = weak.lock();
                                            return self ? self->Sent() : 0;
                                          });
    Begin();
  }

  // Returns the length of the next chunk.
  uint64_t Sent() {
    const auto self = shared_from_this();
    const uint64_t length = Length();
    Count(length);
    request_.progress->Add(length - 1);
    const ChunkIndex index = next_;
    next_ = next_.next();
    origin_.port_.coming.erase(index);
    chunk_.Add(WeightlessBytes().first(length - chunk_.filled()));
    on_chunk_(index, std::exchange(chunk_, {}).Take(), 0);
    if (!on_done_) return 0;
    if (next_ < request_.chunks.end()) {
      Begin();
      return Length();
    }
    End(absl::OkStatus());
    return 0;
  }

  // Those who wait may drop the handle.
  void End(absl::Status status) {
    const auto self = shared_from_this();
    const bool goes_on = status.ok();
    std::exchange(on_done_, nullptr)(std::move(status));
    const std::shared_ptr<Fetching> next = std::exchange(next_fetching_, nullptr);
    if (next && next->on_done_) goes_on ? next->Answer() : next->Start();
  }

  SimOrigin& origin_;
  const FetchRequest request_;
  ChunkIndex next_;  // to be sent
  OnChunk on_chunk_;
  OnDone on_done_;  // null: it has ended
  TransferPtr transfer_;
  ChunkInflow chunk_;
  std::shared_ptr<Fetching> next_fetching_;  // begins when this has ended
};

FetchHandle SimOrigin::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  const ChunkSpan chunks = request.chunks;
  const bool may_follow = p2p::StripeAround(request.blob->geometry(), chunks.first).first != chunks.first;
  const auto fetching =
      std::make_shared<Fetching>(*this, std::move(request), std::move(on_chunk), std::move(on_done));
  const auto before = by_end_.find(chunks.first);
  const std::shared_ptr<Fetching> followed =
      before == by_end_.end() || !may_follow ? nullptr : before->second.lock();
  by_end_[chunks.end()] = fetching;
  if (followed && followed->LetsFollow()) {
    followed->SetNext(fetching);
  } else {
    fetching->Start();
  }
  return FetchHandle(fetching);
}

}  // namespace sluice::sim
