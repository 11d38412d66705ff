#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "node/blob.h"
#include "node/blob_cache.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice {

// The chunks that the ranges touch, as runs in their order with gaps between them.
// REQUIRES: each range is within the blob and not empty
std::vector<ChunkSpan> ChunksTouched(const ChunkGeometry& geometry, std::vector<ByteRange> ranges);

// Bytes of the chunks of the spans, and of those of them that are present.
uint64_t BytesOf(const ChunkGeometry& geometry, const std::vector<ChunkSpan>& spans);
uint64_t PresentBytesOf(const Blob& blob, const std::vector<ChunkSpan>& spans);

// Brings parts of a blob in, in class hint and by the right of whoever wants them, and tries again for as
// long as it lives.
//
// Thread-safe.
class RangeFill {
 public:
  struct Parts {
    const Clock& clock;
    Executor& core;
    BlobCache& cache;
  };
  struct Limits {
    Duration retry_first = std::chrono::seconds(1);
    Duration retry_max = std::chrono::seconds(60);
  };
  // Told of each try's end: OK once all chunks were there, and then no more; else why it failed, and it is
  // tried again. On the core loop; it may destroy the fill.
  using OnTry = std::function<void(const absl::Status&)>;

  // Begins. What it was made of outlives it. REQUIRES: the spans are within the blob, in order, not empty
  RangeFill(Parts parts, Limits limits, const BlobKey& key, std::vector<ChunkSpan> spans, OnTry on_try,
            Grant grant = nullptr);
  // Stops; what is under way for nobody else is cancelled. OnTry may be under way on the core loop.
  ~RangeFill();
  RangeFill(const RangeFill&) = delete;
  RangeFill& operator=(const RangeFill&) = delete;

 private:
  class Run;
  const std::shared_ptr<Run> run_;
};

}  // namespace sluice
