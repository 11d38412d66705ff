#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "index/blob_fd_cache.h"
#include "index/file_room.h"
#include "index/index_codec.h"
#include "index/index_db.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/chunk_set.h"
#include "node/chunk_store.h"

namespace sluice::index {

// What the store knows of one blob beyond its Blob: where each chunk is on its way from written to claimed.
//
//   absent -> pending (written, servable) -> syncing (in the batch under way) -> claimed (in the index)
//
// A chunk that is taken back leaves pending and syncing at once, but stays claimed until an index write has
// removed its claim: the claimed set is what the index may say, never less.
//
// What is taken back is told to the kernel's side by the Notifier: `revision` counts what was taken back,
// `told` how much of that is known there. Until they are equal, no bytes are overwritten.
//
// Guarded by `mutex`, but for what is constant and what is atomic; every method REQUIRES that it is held.
struct BlobEntry {
  BlobEntry(std::shared_ptr<Blob> the_blob, BlobRecord the_record);

  // As the index says when it is loaded.
  void Load(SegmentIndex segment, const PresenceSegment& value);

  // Whether a commit may go on. Errors: NotFound (evicted, or another Blob is kept by its key now), DataLoss;
  // FailedPrecondition (it comes without proof, and more than one repository's readers would read it).
  absl::Status CheckWritable(const Blob& written, Evidence evidence) const;
  // REQUIRES: `index` is absent.
  void AddWritten(ChunkIndex index, Evidence evidence, const BlobFdCache::Fd& fd);
  // REQUIRES: `index` is present.
  void AddVerified(ChunkIndex index, const BlobFdCache::Fd& fd);

  // Each makes it the Notifier's turn.
  void TakeBack(ChunkIndex index);
  void TakeBackAll();
  // What no sync has covered: after a failed sync nobody knows which of it reached the disk.
  void TakeBackUnclaimed();

  // Moves pending to syncing; returns the file to sync, or null if there is nothing to.
  BlobFdCache::Fd BeginSync();
  // Adds the claims of what is syncing, and the record if it changed. They count as claimed from here on.
  void StageClaims(IndexBatch* batch);
  void EndSync();

  // Adds segments without the claims of chunks that are absent, and returns those chunks. They go on to count
  // as claimed.
  ChunkSet StageDrops(IndexBatch* batch);
  // After a whole-blob check: every chunk is proven, and so is `root`, if it was made with it. Another is if
  // it had vouched for each of them; else it is dropped.
  void StageVerifiedWhole(const std::optional<Digest>& root, IndexBatch* batch);
  void StageRecord(IndexBatch* batch);

  // The file was lost, or is to be made anew: no claim holds, nothing can be written.
  void ForgetFile();
  // A new one was made; its identity reaches the index with the next claims.
  void SetFile(const FileIdentity& file);

  bool Unclaimed() const { return !pending.empty() || !syncing.empty(); }
  // All chunks are present and durable; proven, too, if settled.
  bool Durable() const;
  bool Settled() const { return Durable() && blob->unverified_count() == 0 && record.proven; }
  // As the record says; see FactsOf.
  BlobSpec Facts() const;
  // For people: which blob, and whose claim if it is kept beside another. Needs no lock.
  std::string Name() const;
  bool Told() const { return told.load() >= revision; }

  const BlobKey id;
  const std::shared_ptr<Blob> blob;
  const std::string claimant;  // who claimed it first, if it is kept beside another; for people

  mutable std::mutex mutex;

  BlobRecord record;
  bool record_changed = false;

  ChunkSet claimed;
  ChunkSet verified;
  std::vector<ChunkIndex> pending;
  std::vector<ChunkIndex> syncing;
  BlobFdCache::Fd sync_fd;   // open since the first pending write, so that its write errors are reported
  bool queued = false;       // for the next batch
  bool evicting = false;     // or evicted
  uint64_t write_epoch = 0;  // a write that began in an earlier one may be lost, so must not count

  FileRoom room;
  uint64_t disk_bytes = 0;  // allocated to the file, as counted last

  uint64_t revision = 0;  // counts what was taken back; a check of older bytes proves nothing
  std::atomic<uint64_t> told{0};
  std::atomic<bool> deaf{false};  // the last try to tell failed
  bool announced = false;         // as settled; told, or to be told
  bool announce_due = false;      // to be told
  uint32_t lost_chunks = 0;       // went with a lost file, and nobody has been told yet
  bool wrong_before = false;      // its whole bytes were not the digest's, and are fetched once more
  bool notice_due = false;        // waits in the Notifier
  bool was_imported = false;      // what was imported went with its file

 private:
  PresenceSegment ClaimsOf(SegmentIndex segment, const ChunkSet& present) const;
  void Forget(ChunkIndex index);
  void TookBack();
  void ChangeState(BlobState state);
};

// What is known of a blob with that record. Origins that have given something come first, then the others;
// the newest first of each.
BlobSpec FactsOf(const Digest& digest, const BlobRecord& record);

using EntryPtr = std::shared_ptr<BlobEntry>;

}  // namespace sluice::index
