#include "node/daemon/range_fill.h"

#include <algorithm>
#include <atomic>
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

// Owned by the core loop, but for what is constant and `stopped`.
class RangeFill::Run : public std::enable_shared_from_this<Run> {
 public:
  Run(Parts parts, Limits limits, std::shared_ptr<Blob> blob, std::vector<ChunkSpan> spans, OnTry on_try)
      : parts_(parts),
        limits_(limits),
        blob_(std::move(blob)),
        spans_(std::move(spans)),
        on_try_(std::move(on_try)),
        retry_after_(limits.retry_first) {}

  void Stop() { stopped_ = true; }

  // A try from the first span on.
  void Begin() {
    span_ = 0;
    next_ = ChunkIndex(0);
    error_ = absl::OkStatus();
    Step();
  }

 private:
  void Step() {
    while (!stopped_ && error_.ok() && steps_ < limits_.steps_max) {
      const ChunkSpan run = NextRun();
      if (run.count == 0) break;
      ++steps_;
      const ReadRequest request{blob_->digest(), blob_->geometry().RangeOf(run), FetchClass::kHint,
                                parts_.clock.Now() + limits_.step_timeout};
      parts_.cache.Read(request, [self = shared_from_this()](absl::StatusOr<ReadResult> result) {
        --self->steps_;
        if (self->error_.ok()) self->error_ = result.status();
        self->Step();
      });
    }
    if (steps_ == 0 && !stopped_) EndTry();
  }

  // The next absent chunks; count is 0 at the end.
  ChunkSpan NextRun() {
    const auto count_max =
        static_cast<uint32_t>(std::max<uint64_t>(1, limits_.step_bytes_max / blob_->geometry().chunk_size()));
    for (; span_ < spans_.size(); ++span_) {
      const ChunkIndex first = std::max(next_, spans_[span_].first);
      const uint32_t left = spans_[span_].end().value() - std::min(first, spans_[span_].end()).value();
      const ChunkSpan run = blob_->presence().FirstAbsent({first, left}, count_max);
      if (run.count == 0) continue;
      next_ = run.end();
      return run;
    }
    return {};
  }

  void EndTry() {
    if (!error_.ok()) {
      parts_.core.PostAt(parts_.clock.Now() + retry_after_, [self = shared_from_this()] {
        if (!self->stopped_) self->Begin();
      });
      retry_after_ = std::min(retry_after_ * 2, limits_.retry_max);
    }
    on_try_(error_);
  }

  const Parts parts_;
  const Limits limits_;
  const std::shared_ptr<Blob> blob_;
  const std::vector<ChunkSpan> spans_;
  const OnTry on_try_;

  std::atomic<bool> stopped_{false};

  Duration retry_after_;
  size_t span_ = 0;    // that this try is at
  ChunkIndex next_{};  // in it
  int steps_ = 0;      // under way
  absl::Status error_;
};

RangeFill::RangeFill(Parts parts, Limits limits, std::shared_ptr<Blob> blob, std::vector<ChunkSpan> spans,
                     OnTry on_try)
    : run_(std::make_shared<Run>(parts, limits, std::move(blob), std::move(spans), std::move(on_try))) {
  parts.core.Post([run = run_] { run->Begin(); });
}

RangeFill::~RangeFill() {
  run_->Stop();
}

}  // namespace sluice
