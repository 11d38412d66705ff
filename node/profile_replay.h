#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/blob.h"
#include "node/blob_cache.h"
#include "node/chunk_set.h"
#include "node/geometry.h"
#include "node/image_profile.h"
#include "node/telemetry.h"

namespace sluice {

// Brings in what earlier starts of an image have touched, in the order of need, ahead of a start. A few runs
// are under way at once, so that what is needed first comes first; demands go before all of them. What is
// needed soon after a run's first chunk and lies beside it comes with it: starts touch here and there, and
// most of what a registry does for a request is done for each alike. (docker-registry reads 4 MiB whatever is
// asked for. Of gcc's start, whose 185 chunks are touched in 147 pieces, 67 requests are left.)
//
// A profile may be wrong or hostile: what was brought in and not read yet has a bound, beyond which no more
// is brought until some of it is read. What can't be had ends the replay: the reader will hear why. Where the
// source only can't give it just now, it goes on when a reader next touches what nobody did before: by then
// somebody has waited for the source.
//
// Owned by the core loop; made anywhere.
class ProfileReplay : public std::enable_shared_from_this<ProfileReplay> {
 public:
  struct Limits {
    uint64_t under_way_bytes_max = 4 << 20;  // asked for and not yet here
    uint64_t unread_bytes_max = 64 << 20;    // here, or asked for, and not read
    uint32_t run_bytes_max = 2 << 20;        // of one run of chunks; at least one chunk
    uint64_t soon_bytes = 8 << 20;           // what is needed so many bytes after a run may be part of it
  };

  // What of the profile does not lie within the image's blobs, which are leased elsewhere, is passed over.
  // `cache` and `telemetry` outlive it.
  ProfileReplay(BlobCache& cache, Telemetry& telemetry, std::vector<std::shared_ptr<Blob>> blobs,
                const ImageProfile& profile, Limits limits);

  void Begin();
  // A reader has touched them for the first time. REQUIRES: within the image's blobs
  void Touched(uint32_t blob, ChunkSpan chunks);
  // Nobody starts any more: what is under way for nobody else is cancelled, what was not read is counted.
  // No-op if it has ended.
  void End();

 private:
  struct Run {
    uint32_t blob = 0;
    ChunkSpan chunks;
    uint64_t bytes = 0;
    FillId fill{};
  };

  void Pump();
  // The next chunks in a row that are to be brought; nothing at the end.
  std::optional<Run> NextRun();
  bool IsToCome(uint32_t blob, ChunkIndex chunk) const;
  ChunkSpan Around(uint32_t blob, ChunkIndex first) const;
  void Start(Run run);
  void RunEnded(uint64_t number, const absl::Status& status);
  // It has not come, and is to be asked for again.
  void PutBack(const Run& run);
  void NotUnread(const Run& run);
  uint64_t BytesOf(uint32_t blob, ChunkSpan chunks) const {
    return blobs_[blob]->geometry().RangeOf(chunks).length;
  }

  BlobCache& cache_;
  Telemetry& telemetry_;
  const std::vector<std::shared_ptr<Blob>> blobs_;
  const Limits limits_;
  std::vector<ProfileSpan> spans_;                // in the order of need
  size_t next_ = 0;                               // the span that is next
  std::vector<ChunkSet> asked_;                   // of each blob: under way, or here
  std::vector<ChunkSet> unread_;                  // of each blob: asked for, and not read yet
  std::vector<ChunkSet> touched_;                 // of each blob
  absl::flat_hash_map<uint64_t, Run> under_way_;  // by their numbers
  uint64_t next_number_ = 0;
  uint64_t under_way_bytes_ = 0;
  uint64_t unread_bytes_ = 0;
  bool waits_ = false;  // for the next touch
  bool ended_ = false;
};

}  // namespace sluice
