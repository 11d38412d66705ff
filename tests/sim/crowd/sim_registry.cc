#include "tests/sim/crowd/sim_registry.h"

#include <utility>

namespace sluice::sim {

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
  void Raise(FetchClass) override {}
  void Cancel() override {
    if (!on_done_) return;
    if (transfer_) Count(Length() - origin_.wire_.links.Stop(*transfer_));
    End(absl::CancelledError("nobody wants it any more"));
  }

 private:
  uint64_t Length() const { return request_.blob->geometry().RangeOf(next_).length; }
  void Count(uint64_t bytes) { origin_.registry_.bytes += bytes; }

  void Answer() {
    if (!on_done_ || origin_.port_.node.dead()) return;
    request_.progress->Add(1);
    transfer_ = origin_.wire_.links.Start(origin_.registry_.up, origin_.port_.down, Length(),
                                          [weak = weak_from_this()] {
                                            const auto self = weak.lock();
                                            return self ? self->Sent() : 0;
                                          });
  }

  // Returns the length of the next chunk.
  uint64_t Sent() {
    const auto self = shared_from_this();
    const uint64_t length = Length();
    Count(length);
    request_.progress->Add(length - 1);
    const ChunkIndex index = next_;
    next_ = next_.next();
    on_chunk_(index, Buffer(length), 0);
    if (!on_done_) return 0;
    if (next_ < request_.chunks.end()) return Length();
    origin_.ledger_.NoteAccess(request_.blob->key(), request_.blob->facts()->origins.front(),
                               OriginAccess::kPublic);
    End(absl::OkStatus());
    return 0;
  }

  // Those who wait may drop the handle.
  void End(absl::Status status) {
    const auto self = shared_from_this();
    std::exchange(on_done_, nullptr)(std::move(status));
  }

  SimOrigin& origin_;
  const FetchRequest request_;
  ChunkIndex next_;  // to be sent
  OnChunk on_chunk_;
  OnDone on_done_;  // null: it has ended
  TransferPtr transfer_;
};

FetchHandle SimOrigin::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  const auto fetching =
      std::make_shared<Fetching>(*this, std::move(request), std::move(on_chunk), std::move(on_done));
  fetching->Start();
  return FetchHandle(fetching);
}

}  // namespace sluice::sim
