#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "index/blob_fd_cache.h"
#include "index/index_codec.h"
#include "index/index_db.h"
#include "node/blob.h"
#include "node/chunk_store.h"

namespace sluice::index {

// One bit per chunk of a blob. Not thread-safe.
class ChunkSet {
 public:
  explicit ChunkSet(uint32_t chunk_count) : words_((chunk_count + 63) / 64) {}

  bool Has(ChunkIndex index) const { return words_[index.value() / 64] >> (index.value() % 64) & 1; }
  void Add(ChunkIndex index) { words_[index.value() / 64] |= uint64_t{1} << (index.value() % 64); }
  void Remove(ChunkIndex index) { words_[index.value() / 64] &= ~(uint64_t{1} << (index.value() % 64)); }
  void Clear() { words_.assign(words_.size(), 0); }

 private:
  std::vector<uint64_t> words_;
};

// What the store knows of one blob beyond its Blob: where each chunk is on its way from written to claimed.
//
//   absent -> pending (written, servable) -> syncing (in the batch under way) -> claimed (in the index)
//
// A chunk that is taken back leaves pending and syncing at once, but stays claimed until an index write has
// removed its claim: the claimed set is what the index may say, never less.
//
// Guarded by `mutex`; every method REQUIRES that it is held. `blob` is also changed only under the store's
// exclusive map lock.
struct BlobEntry {
  BlobEntry(std::shared_ptr<Blob> the_blob, BlobRecord the_record);

  // As the index says when it is loaded.
  void Load(SegmentIndex segment, const PresenceSegment& value);

  // Whether a commit may go on. Errors: Unavailable (another Blob of this digest, or evicted), DataLoss.
  absl::Status CheckWritable(const Blob& written) const;
  // REQUIRES: `index` is absent.
  void AddWritten(ChunkIndex index, Evidence evidence, const BlobFdCache::Fd& fd);
  // REQUIRES: `index` is present.
  void AddVerified(ChunkIndex index, const BlobFdCache::Fd& fd);

  void TakeBack(ChunkIndex index);
  void TakeBackAll();
  // What no sync has covered: after a failed sync nobody knows which of it reached the disk.
  void TakeBackUnclaimed();

  // Moves pending to syncing; returns the file to sync, or null if there is nothing to.
  BlobFdCache::Fd BeginSync();
  // Adds the claims of what is syncing, and the record if it changed. They count as claimed from here on.
  void StageClaims(IndexBatch* batch);
  void EndSync();

  // Adds segments without the claims of chunks that are absent, and returns those chunks.
  std::vector<ChunkIndex> StageDrops(IndexBatch* batch);
  // After a whole-blob check: every chunk is proven.
  void StageVerifiedWhole(IndexBatch* batch);
  void StageRecord(IndexBatch* batch);

  bool Unclaimed() const { return !pending.empty() || !syncing.empty(); }
  // All chunks are present and durable; proven, too, if settled.
  bool Durable() const;
  bool Settled() const { return Durable() && blob->unverified_count() == 0; }

  std::mutex mutex;

  std::shared_ptr<Blob> blob;
  BlobRecord record;
  bool record_changed = false;

  ChunkSet claimed;
  ChunkSet verified;
  std::vector<ChunkIndex> pending;
  std::vector<ChunkIndex> syncing;
  BlobFdCache::Fd sync_fd;   // open since the first pending write, so that its write errors are reported
  bool queued = false;       // for the next batch
  bool announced = false;    // as settled
  bool evicting = false;     // or evicted
  uint64_t write_epoch = 0;  // a write that began in an earlier one may be lost, so must not count
  uint64_t revision = 0;     // counts what was taken back; a check of older bytes proves nothing
  uint64_t disk_bytes = 0;

 private:
  PresenceSegment ClaimsOf(SegmentIndex segment) const;
  void Forget(ChunkIndex index);
  void ChangeState(BlobState state);
};

}  // namespace sluice::index
