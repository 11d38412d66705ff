#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "node/blob_key.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "node/origin_access.h"
#include "node/telemetry.h"
#include "p2p/registry/long_reads.h"
#include "p2p/registry/registry_client.h"
#include "p2p/registry/seek_table_cache.h"

namespace sluice::p2p {

// Chunks from the registries that a blob is said to be in: one ranged GET per fetch, or for all of a long
// stream (LongReads). When it breaks midway
// the chunks that are left are asked for again; when a registry fails, or gives nothing in its share of the
// time, the blob's next one is asked. One that gave wrong bytes of a blob is asked last for it.
//
// From a registry that keeps the blob compressed a run of chunks is the range of their frames; each is
// decoded on the executor as soon as it is whole, the chunks of one fetch one after another. Bytes that wait
// to be decoded are bounded by what fetches under way have asked for, since a frame is hardly longer than its
// chunk (SeekTable::FrameBytesMax). A chunk whose frame lies is left out, its registry is blamed as for wrong
// bytes, and the fetch ends with DataLoss when the others have been delivered.
//
// Thread-safe. The parts outlive the source; a fetch under way outlives the source safely.
class OriginSource final : public ChunkSource {
 public:
  static constexpr uint32_t kResumesMax = 8;  // of one fetch, each after at least one more chunk arrived

  static constexpr size_t kLiarsMax = 1024;  // remembered; the oldest is forgotten first

  struct Parts {
    RegistryClient& registry;
    AccessLedger& ledger;
    const Clock& clock;
    Executor& io;  // decodes
    Telemetry& telemetry;
    decltype(SeekTableCache::Parts::ask) ask_for_table = nullptr;  // as SeekTableCache says
    // Where other nodes fetch the rest of a blob: what of it one request may bring, around that chunk; then
    // nothing that is read ahead comes by one request. Null: all of it.
    std::function<ChunkSpan(const ChunkGeometry&, ChunkIndex)> run_around = nullptr;
  };
  explicit OriginSource(Parts parts, size_t seek_table_bytes_max = SeekTableCache::kBytesMaxDefault);
  ~OriginSource() override;

  SourceKind kind() const override { return SourceKind::kOrigin; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override;
  // The verify failures are counted and the chunk asked for once more; that all registries keep sending wrong
  // bytes is seen by their readers' errors.
  void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) override;

  // A chunk as that very origin gives it, whatever else is known. Nothing is noted of it. Blocks: not for the
  // executor's threads. Errors: those of Fetch.
  struct GivenChunk {
    Buffer bytes;
    OriginAccess access = OriginAccess::kUnknown;  // what it took
  };
  absl::StatusOr<GivenChunk> ReadChunk(const BlobOrigin& origin, const std::shared_ptr<Blob>& blob,
                                       ChunkIndex index, Instant deadline);

  // Says that the blob will soon be fetched: what must be known before is asked for, and not waited for.
  void Expect(const Blob& blob);

 private:
  class Fetching;
  class Liars;

  const Parts parts_;
  const std::shared_ptr<SeekTableCache> tables_;
  const std::shared_ptr<Liars> liars_;
  const std::shared_ptr<LongReads> long_reads_;
};

}  // namespace sluice::p2p
