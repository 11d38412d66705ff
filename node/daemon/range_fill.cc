#include "node/daemon/range_fill.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

namespace sluice {

std::vector<ChunkSpan> ChunksTouched(const ChunkGeometry& geometry, std::vector<ByteRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<ChunkSpan> spans;
  for (const ByteRange& range : ranges) {
    const ChunkSpan span = geometry.Covering(range);
    if (spans.empty() || spans.back().end() < span.first) {
      spans.push_back(span);
    } else if (spans.back().end() < span.end()) {
      spans.back().count = span.end().value() - spans.back().first.value();
    }
  }
  return spans;
}

uint64_t BytesOf(const ChunkGeometry& geometry, const std::vector<ChunkSpan>& spans) {
  uint64_t bytes = 0;
  for (const ChunkSpan& span : spans) bytes += geometry.RangeOf(span).length;
  return bytes;
}

uint64_t PresentBytesOf(const Blob& blob, const std::vector<ChunkSpan>& spans) {
  uint64_t bytes = 0;
  for (const ChunkSpan& span : spans) {
    for (ChunkIndex index = span.first; index < span.end(); index = index.next()) {
      if (blob.presence().IsPresent(index)) bytes += blob.geometry().RangeOf(index).length;
    }
  }
  return bytes;
}

class RangeFill::Run : public std::enable_shared_from_this<Run> {
 public:
  Run(Parts parts, Limits limits, const BlobKey& key, std::vector<ChunkSpan> spans, OnTry on_try, Grant grant)
      : parts_(parts),
        limits_(limits),
        key_(key),
        spans_(std::move(spans)),
        on_try_(std::move(on_try)),
        retry_after_(limits.retry_first),
        grant_(std::move(grant)) {}

  void Try() {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    fill_ =
        parts_.cache.Fill({.blob = key_, .fetch_class = FetchClass::kHint, .chunks = spans_, .grant = grant_},
                          [self = shared_from_this()](absl::Status status) { self->EndTry(status); });
  }

  void Stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    grant_.reset();  // a try that is still to come holds this
    if (fill_) parts_.cache.StopFill(*fill_);
  }

 private:
  // On the core loop.
  void EndTry(const absl::Status& status) {
    {
      const std::lock_guard lock(mutex_);
      if (stopped_) return;
    }
    if (!status.ok()) {
      parts_.core.PostAt(parts_.clock.Now() + retry_after_, [self = shared_from_this()] { self->Try(); });
      retry_after_ = std::min(retry_after_ * 2, limits_.retry_max);
    }
    on_try_(status);
  }

  const Parts parts_;
  const Limits limits_;
  const BlobKey key_;
  const std::vector<ChunkSpan> spans_;
  const OnTry on_try_;

  Duration retry_after_;  // core loop

  std::mutex mutex_;  // guards what follows
  bool stopped_ = false;
  Grant grant_;
  std::optional<FillId> fill_;  // the last
};

RangeFill::RangeFill(Parts parts, Limits limits, const BlobKey& key, std::vector<ChunkSpan> spans,
                     OnTry on_try, Grant grant)
    : run_(std::make_shared<Run>(parts, limits, key, std::move(spans), std::move(on_try), std::move(grant))) {
  run_->Try();
}

RangeFill::~RangeFill() {
  run_->Stop();
}

}  // namespace sluice
