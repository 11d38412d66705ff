#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/chunk_set.h"
#include "node/daemon/hint_figures.h"
#include "node/image_counters.h"
#include "node/image_profile.h"

namespace sluice {

// Judges what hints brought in: a start of an image that is watched reads some of it, and what it does not
// read was brought for nothing, as what leaves the store before any start. What no start is watched of is not
// judged: reads of what is whole pass unseen else.
//
// Thread-safe; does not block.
class HintPrecision {
 public:
  static constexpr size_t kBlobsMax = 4096;  // with chunks that are not judged; the oldest stays so

  // They outlive this.
  explicit HintPrecision(ImageCounters& counters) : counters_(counters) {}

  // These chunks of the blob came while a hint asked for them, whose figures tell what becomes of them.
  void Brought(const Blob& blob, const ChunkSet& chunks, std::shared_ptr<HintFigures> figures);
  // A start of the image that has those blobs was watched from its beginning to its end, and read that.
  void Started(std::span<const std::shared_ptr<Blob>> blobs, const ImageProfile& read);
  // Chunks of the blob have left the store.
  void Lost(const Blob& blob);

 private:
  // Of two hints that waited for a chunk the one that was over first has it.
  struct Share {
    std::shared_ptr<HintFigures> figures;
    ChunkSet chunks;
  };
  struct Unjudged {
    ChunkSet chunks;            // of all shares
    std::vector<Share> shares;  // that are not judged entirely
    std::list<BlobKey>::iterator place;
  };
  // Takes those out that `judged` has, and counts them. REQUIRES: mutex_ is held
  void Judge(const Blob& blob, const ChunkSet& judged, HintBytes as);

  ImageCounters& counters_;
  std::mutex mutex_;  // guards what follows
  absl::flat_hash_map<BlobKey, Unjudged> blobs_;
  std::list<BlobKey> order_;  // of blobs_, the oldest first
};

}  // namespace sluice
