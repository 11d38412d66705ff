#pragma once

#include <cstdint>
#include <vector>

#include "node/chunk_set.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice {

// Chunks in a row of one of an image's blobs, which starts of it have touched at about the same time.
struct ProfileSpan {
  static constexpr uint8_t kWeightMax = 255;

  uint32_t blob = 0;  // in the order of the image's blobs
  ChunkSpan chunks;
  uint32_t after_ms = 0;        // since the first touch of the start
  uint8_t weight = kWeightMax;  // how often starts touch them: all of the last ones at kWeightMax

  friend bool operator==(const ProfileSpan&, const ProfileSpan&) = default;
};

// What starts of an image touch, in the order of need; a single start, or several merged. Advice: it may be
// wrong, so whoever acts on it bounds what that costs.
struct ImageProfile {
  static constexpr size_t kSpansMax = 1500;  // what is needed later is left out
  static constexpr uint32_t kBlobsMax = 500;
  // Chunks that a new start touches first have this weight; those below the other one are forgotten.
  static constexpr uint8_t kWeightNew = 128;
  static constexpr uint8_t kWeightMin = 64;

  uint32_t runs = 0;               // starts that it is made of
  std::vector<ProfileSpan> spans;  // no chunk stands in two of them
  // Of a single start: blobs of which touches may have been missed, so that what is not among the spans may
  // have been touched all the same. In order.
  std::vector<uint32_t> blind;

  friend bool operator==(const ImageProfile&, const ImageProfile&) = default;
};

// What is known, and one more start of the same image: weights and times follow the last few starts. What
// several starts in a row don't touch is forgotten, but for what they may have touched unseen.
ImageProfile Merged(const ImageProfile& known, const ImageProfile& start);

// Collects what a start of an image touches: of each chunk the first touch.
//
// Not thread-safe.
class FirstTouches {
 public:
  // Touches in a row within so long are one span.
  static constexpr Duration kTogether = std::chrono::milliseconds(150);
  static constexpr uint32_t kSpanChunksMax = 64;

  // Of the image's blobs, in its order.
  explicit FirstTouches(const std::vector<uint32_t>& chunk_counts);

  // What was touched so long after the first touch of all; the times never fall. Calls visit(ChunkSpan) for
  // what is new. REQUIRES: the blob is one of the image's, the chunks lie within it
  template <typename Visit>
  void Note(uint32_t blob, ChunkSpan chunks, Duration after, Visit visit);
  void Note(uint32_t blob, ChunkSpan chunks, Duration after) {
    Note(blob, chunks, after, [](ChunkSpan) {});
  }
  // Touches of it may be missed from now on. REQUIRES: as Note
  void SetBlind(uint32_t blob);

  bool empty() const { return start_.spans.empty(); }
  // What was touched so far, as one start.
  const ImageProfile& start() const { return start_; }

 private:
  void Add(uint32_t blob, ChunkSpan chunks, Duration after);

  std::vector<ChunkSet> touched_;
  ImageProfile start_;
};

template <typename Visit>
void FirstTouches::Note(uint32_t blob, ChunkSpan chunks, Duration after, Visit visit) {
  ChunkSet& touched = touched_[blob];
  for (ChunkIndex at = chunks.first; at < chunks.end();) {
    ChunkSpan fresh{at, 0};
    while (fresh.end() < chunks.end() && !touched.Has(fresh.end())) {
      touched.Add(fresh.end());
      ++fresh.count;
    }
    at = fresh.end().next();
    if (fresh.count == 0) continue;
    Add(blob, fresh, after);
    visit(fresh);
  }
}

}  // namespace sluice
