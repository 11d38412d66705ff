#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/amplifier.h"
#include "node/blob.h"
#include "node/bulk_lane.h"
#include "node/chunk_sink.h"
#include "node/chunk_source.h"
#include "node/chunk_store.h"
#include "node/chunk_verifier.h"
#include "node/executor.h"
#include "node/fetch_table.h"
#include "node/telemetry.h"

namespace sluice {

struct ReadRequest {
  Digest digest;
  ByteRange range;  // within the blob, not empty
  FetchClass fetch_class = FetchClass::kDemand;
  Instant deadline;
};

// What a completed read tells: the bytes of the range are in the store's file and may be read from there.
struct ReadResult {
  SourceKind source = SourceKind::kLocal;  // the farthest place that any of its chunks came from
};
using ReadDone = absl::AnyInvocable<void(absl::StatusOr<ReadResult>) &&>;

// A fill brings in all of a blob that is absent.
using FillDone = absl::AnyInvocable<void(absl::Status) &&>;

struct BlobCacheLimits {
  uint32_t fetch_bytes_max = 8 << 20;  // of one fetch; a longer run is split
  uint64_t inflight_bytes_max =
      256 << 20;  // asked for and not yet committed, over all fetches; demand may exceed it
  uint32_t reads_waiting_max = 65536;  // beyond this a read is refused (ResourceExhausted)
  uint32_t fetches_max[kFetchClassCount] = {64, 16, 8,
                                            4};  // under way at once, by class; half of it for one blob
  uint32_t queue_max = 4096;  // fetches that wait for their turn; beyond, the lowest class is dropped
  uint32_t readahead_bytes_max = 8 << 20;  // the widest window of a sequential stream
  Duration fetch_timeout = std::chrono::seconds(60);
  uint64_t offer_bytes_max = 64 << 20;  // offered and not done yet; beyond it an offer is refused
};

// The one entry of the cache. A read is answered from the store, and what is absent is fetched
// first, each chunk once however many wait for it, verified and committed before anyone sees it.
//
// Thread-safe: Read and Fill may be called on any thread; their callbacks run on the core loop, exactly once,
// also when the cache is destroyed first (with Cancelled). All other state is owned by the core loop.
class BlobCache final : public ChunkSink {
 public:
  struct Parts {
    Clock& clock;
    Executor& core;  // serial
    Executor& io;    // pool
    ChunkStore& store;
    ChunkVerifier& verifier;
    std::vector<ChunkSource*> sources;  // in the order they are asked
    Telemetry& telemetry;
    BulkLane* bulk = nullptr;  // outlives the cache; null: fills ask the sources for everything
  };

  BlobCache(Parts parts, BlobCacheLimits limits);
  ~BlobCache() override;
  BlobCache(const BlobCache&) = delete;
  BlobCache& operator=(const BlobCache&) = delete;

  // A demand read waits, within its deadline, for a source that is not there just now.
  //
  // Errors given to `done`: NotFound (no such blob), OutOfRange (past the blob's end), DataLoss (the blob is
  // refused, or a chunk failed verification twice), DeadlineExceeded, ResourceExhausted (too many readers; no
  // space), Unavailable and what else the last source said.
  void Read(ReadRequest request, ReadDone done);

  // Fetches all absent chunks; done when the blob is complete or a chunk failed for good. Watch the progress
  // in Blob::presence(). A second fill of the same blob joins the first, which goes on in the higher class of
  // both. REQUIRES: fetch_class is not kDemand
  void Fill(const Digest& digest, FetchClass fetch_class, FillDone done);
  // Ends a fill with Cancelled, once the fetches that are under way have come. No-op without one.
  void StopFill(const Digest& digest);

  // As ChunkSink says; also Cancelled, when the cache is gone.
  void Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence, SourceKind kind,
             ChunkSink::OnDone on_done) override;

 private:
  class Core;
  const std::shared_ptr<Core> core_;
};

}  // namespace sluice
