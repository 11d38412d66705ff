#include "node/chunk_flow.h"

#include <algorithm>
#include <cstring>

namespace sluice {

// ----------------------------------------------------------------------------------------------- one flow

size_t ChunkFlow::ShownLocked() const {
  return right_ || filled_ < length_ ? filled_ : length_ - 1;
}

bool ChunkFlow::failed() const {
  const std::lock_guard lock(mutex_);
  return over_ && !right_;
}

void ChunkFlow::Await(size_t count, OnBytes then) {
  std::optional<size_t> shown;
  {
    const std::lock_guard lock(mutex_);
    shown = ShownLocked();
    if (*shown < count && !over_) {
      waiting_.push_back({count, std::move(then)});
      return;
    }
    if (*shown < count) shown = std::nullopt;
  }
  std::move(then)(shown);
}

bool ChunkFlow::IsQuietFor(Duration duration, Instant now) const {
  const std::lock_guard lock(mutex_);
  return filled_ < length_ && now - grown_ >= duration;
}

void ChunkFlow::Grow(size_t filled, Instant now) {
  std::unique_lock lock(mutex_);
  filled_ = filled;
  grown_ = now;
  Tell(std::move(lock));
}

void ChunkFlow::Judge(bool right) {
  std::unique_lock lock(mutex_);
  if (over_) return;
  right_ = right;
  over_ = true;
  Tell(std::move(lock));
}

void ChunkFlow::End() {
  std::unique_lock lock(mutex_);
  if (std::exchange(over_, true)) return;
  Tell(std::move(lock));
}

// Whoever waited for what is there now, or will never be.
void ChunkFlow::Tell(std::unique_lock<std::mutex> lock) {
  const size_t shown = ShownLocked();
  const bool over = over_;
  const auto first = std::partition(waiting_.begin(), waiting_.end(),
                                    [&](const Waiting& waiting) { return waiting.count > shown && !over; });
  std::vector<Waiting> told(std::make_move_iterator(first), std::make_move_iterator(waiting_.end()));
  waiting_.erase(first, waiting_.end());
  lock.unlock();
  for (Waiting& waiting : told)
    std::move(waiting.then)(waiting.count <= shown ? std::optional(shown) : std::nullopt);
}

// ---------------------------------------------------------------------------------------------- all flows

void ChunkFlows::Observe(OnBegin on_begin) {
  auto observer = on_begin ? std::make_shared<const OnBegin>(std::move(on_begin)) : nullptr;
  const std::lock_guard lock(mutex_);
  on_begin_.swap(observer);
}

std::shared_ptr<ChunkFlow> ChunkFlows::FindAny(const BlobKey& blob, ChunkIndex chunk) const {
  const std::lock_guard lock(mutex_);
  const auto found = flows_.find(Name(blob, chunk));
  return found == flows_.end() ? nullptr : found->second.held.lock();
}

std::shared_ptr<ChunkFlow> ChunkFlows::Find(const BlobKey& blob, ChunkIndex chunk) const {
  std::shared_ptr<ChunkFlow> flow = FindAny(blob, chunk);
  return flow && IsOfUse(*flow) ? flow : nullptr;
}

bool ChunkFlows::IsOfUse(const ChunkFlow& flow) const {
  return !flow.failed() && !flow.IsQuietFor(kQuietMax, clock_.Now());
}

std::shared_ptr<ChunkFlow> ChunkFlows::Begin(const BlobKey& blob, ChunkIndex chunk, size_t length,
                                             FlowSender sender) {
  const Name name(blob, chunk);
  auto flow = std::make_unique<ChunkFlow>(length, std::move(sender), clock_.Now());
  std::shared_ptr<ChunkFlow> other;  // let go of without the lock
  const std::lock_guard lock(mutex_);
  Entry& entry = flows_.try_emplace(name, Entry{nullptr, {}}).first->second;
  other = entry.held.lock();
  if (other && IsOfUse(*other)) return nullptr;
  std::shared_ptr<ChunkFlow> held(flow.release(), [flows = shared_from_this(), blob, chunk](ChunkFlow* gone) {
    flows->Forget(blob, chunk, gone);
    delete gone;
  });
  entry = {held.get(), held};
  return held;
}

void ChunkFlows::Forget(const BlobKey& blob, ChunkIndex chunk, const ChunkFlow* flow) {
  const std::lock_guard lock(mutex_);
  const auto found = flows_.find(Name(blob, chunk));
  if (found != flows_.end() && found->second.flow == flow) flows_.erase(found);
}

void ChunkFlows::Tell(const BlobKey& blob, ChunkIndex chunk) const {
  std::shared_ptr<const OnBegin> on_begin;
  {
    const std::lock_guard lock(mutex_);
    on_begin = on_begin_;
  }
  if (on_begin) (*on_begin)(blob, chunk);
}

void ChunkFlows::Judge(const BlobKey& blob, ChunkIndex chunk, std::span<const std::byte> bytes,
                       bool right) const {
  const std::shared_ptr<ChunkFlow> flow = FindAny(blob, chunk);
  if (flow && flow->data() == bytes.data()) flow->Judge(right);
}

// ------------------------------------------------------------------------------------------- what comes in

ChunkInflow::ChunkInflow(ChunkFlows* flows, const BlobKey& blob, ChunkIndex chunk, size_t length,
                         FlowSender sender) {
  // The buffer's hold on the flow.
  struct Hold {
    Hold(std::shared_ptr<ChunkFlow> the_flow, std::shared_ptr<ChunkFlows> the_flows, const BlobKey& the_blob,
         ChunkIndex the_chunk)
        : flow(std::move(the_flow)), flows(std::move(the_flows)), blob(the_blob), chunk(the_chunk) {}
    ~Hold() {
      flow->End();
      flows->Forget(blob, chunk, flow.get());
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    const std::shared_ptr<ChunkFlow> flow;
    const std::shared_ptr<ChunkFlows> flows;
    const BlobKey blob;
    const ChunkIndex chunk;
  };
  std::shared_ptr<ChunkFlow> flow;
  if (flows) flow = flows->Begin(blob, chunk, length, std::move(sender));
  if (!flow) {
    bytes_ = Buffer(length);
    return;
  }
  flows_ = flows;
  blob_ = blob;
  chunk_ = chunk;
  flow_ = flow.get();
  const auto hold = std::make_shared<const Hold>(std::move(flow), flows->shared_from_this(), blob, chunk);
  bytes_ = Buffer(std::shared_ptr<std::byte[]>(hold, flow_->data()), length);
}

std::span<const std::byte> ChunkInflow::Add(std::span<const std::byte> bytes) {
  const size_t taken = std::min(bytes.size(), bytes_.size() - std::min(filled_, bytes_.size()));
  if (taken == 0) return bytes;
  std::memcpy(bytes_.data() + filled_, bytes.data(), taken);
  const bool first = filled_ == 0;
  filled_ += taken;
  if (flow_) flow_->Grow(filled_, flows_->clock_.Now());
  if (flow_ && first) flows_->Tell(blob_, chunk_);
  return bytes.subspan(taken);
}

}  // namespace sluice
