#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/blob_entry.h"
#include "index/blob_fd_cache.h"
#include "index/blob_hasher.h"
#include "index/data_dir.h"
#include "index/file_descriptor.h"
#include "index/index_codec.h"
#include "index/index_db.h"
#include "index/store_file_system.h"
#include "index/sync_loop.h"
#include "node/blob.h"
#include "node/blob_reader.h"
#include "node/chunk_store.h"
#include "node/chunk_verifier.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "node/recipe_store.h"
#include "node/telemetry.h"

namespace sluice::index {

struct DiskStoreOptions {
  std::string data_dir;
  Telemetry& telemetry;  // outlives the store
  StoreFileSystem& file_system = StoreFileSystem::Real();

  Duration sync_interval = std::chrono::milliseconds(100);  // from a write to its claim, at most about
  uint64_t sync_bytes_max = 64 << 20;                       // written and unclaimed; more hurries the sync
  size_t open_files_max = 256;  // kept open; never more than a quarter of RLIMIT_NOFILE

  // Callbacks must not call back into the store, except for its const methods.
  //
  // A blob became settled: all chunks present, durable and proven (see DiskStore::IsSettled). May come again
  // after a chunk was taken back. On the sync thread.
  std::function<void(const std::shared_ptr<Blob>&)> on_complete = nullptr;
  // Chunks were taken back and their presence bits are clear already: the kernel must ask from now on. Takes
  // turns with on_complete, so that whichever was called last tells the truth. On any thread.
  std::function<void(const Blob&)> on_revoke = nullptr;
  // Whether the file is mounted, so that it must not be unlinked even if the index does not know it. At open.
  std::function<bool(const Digest&)> is_mounted = nullptr;
  // Something that people must know: a refused blob, a damaged index, a lost file. On any thread.
  std::function<void(const std::string&)> alarm = nullptr;
  // The wall clock, milliseconds since 1970; the system's if empty. For Touch only.
  std::function<int64_t()> wall_clock_ms = nullptr;
};

// What was found when the store was opened.
struct OpenReport {
  uint64_t blobs = 0;
  uint64_t chunks_present = 0;
  uint64_t files_lost = 0;       // missing or too short: their chunks are absent now
  uint64_t orphans_removed = 0;  // files that no record named
  bool rebuilt = false;          // the index was lost or damaged and begun anew
  std::string reason;            // why; empty if not rebuilt
};

struct VerifyReport {
  uint32_t checked = 0;
  uint32_t ok = 0;
  uint32_t bad = 0;           // taken back; they will be fetched again when they are wanted
  uint32_t unverifiable = 0;  // no recipe, and the blob is not complete
};

struct BlobInfo {
  Digest digest;
  uint64_t size = 0;
  uint32_t chunk_size = 0;
  uint32_t present_chunks = 0;
  uint64_t present_bytes = 0;
  uint64_t disk_bytes = 0;  // allocated, as the file system counted at the last sync
  BlobState state = BlobState::kActive;
  bool pinned = false;
  uint32_t leases = 0;
  int64_t last_access_ms = 0;  // wall clock, milliseconds since 1970
  bool root_known = false;
};

// The local chunk store: one sparse file per blob, and an index that never claims what is not on disk.
//
// A committed chunk is servable at once. Its durable claim follows in a batch: the files are synced, then one
// index write claims their chunks; if either fails, the chunks are taken back. A crash loses at most the
// claims of the last batch. What can't be proven present after a restart is absent.
//
// Thread-safe. Find, Acquire, Touch, Stat, List, IsSettled and what is said of access take no disk access;
// all others may block on it.
class DiskStore final : public ChunkStore, public RecipeStore, public BlobReader, public AccessLedger {
 public:
  using Options = DiskStoreOptions;

  // Errors: FailedPrecondition (the directory is held by another process, is no directory, or has another
  // version's layout), PermissionDenied (can't be written), Unavailable (the disk). A lost or damaged index
  // is no error: see open_report().
  static absl::StatusOr<std::unique_ptr<DiskStore>> OpenStore(Options options);
  ~DiskStore() override;

  const OpenReport& open_report() const { return report_; }

  // Claims what was committed, stops hashing, and ends the store's threads; later commits are Unavailable.
  // Idempotent. The destructor calls it.
  void Stop();
  // Returns when all that was committed before has been claimed or taken back.
  void Flush();

  // ChunkStore. Open also refuses blobs of size 0 (InvalidArgument): the empty blob has nothing to fetch.
  // Commit also gives DataLoss for a refused blob, and Unavailable for one that was evicted meanwhile.
  absl::StatusOr<std::shared_ptr<Blob>> Open(const BlobSpec& spec) override;
  std::shared_ptr<Blob> Find(const Digest& digest) const override;
  absl::StatusOr<Blob::Lease> Acquire(const Digest& digest) const override;
  absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                      Evidence evidence) override;
  absl::Status Revoke(Blob& blob, ChunkIndex index) override;

  // RecipeStore.
  absl::StatusOr<std::string> GetRecipe(const Digest& blob) override;
  absl::Status PutRecipe(const Digest& blob, std::string_view recipe) override;

  // BlobReader.
  absl::StatusOr<std::shared_ptr<const BlobFile>> OpenFile(const Digest& digest) override;
  bool AllProven(const Blob& blob, ChunkSpan span) const override;

  // AccessLedger.
  void NoteAccess(const Digest& digest, const BlobOrigin& origin, OriginAccess access) override;
  OriginAccess AccessOf(const Digest& digest, const BlobOrigin& origin) const override;

  // The blob's file, for reading. Errors: NotFound (no such blob); DataLoss (refused, or the file was lost:
  // then its chunks have been taken back); Unavailable.
  absl::StatusOr<FileDescriptor> OpenForRead(const Digest& digest);
  std::string BlobPath(const Digest& digest) const;
  std::string blobs_dir() const;

  // Takes the blob off the disk with its recipe. Errors: NotFound; FailedPrecondition (leased, or pinned and
  // `reason` is not kCorrupt); Unavailable, ResourceExhausted (the disk; then all chunks are absent, and the
  // call may be repeated).
  absl::Status Evict(const Digest& digest, EvictReason reason);

  // Reads every present chunk again and holds it against the recipe, or the whole file against the digest.
  // Errors: NotFound; DataLoss (refused); Unavailable.
  absl::StatusOr<VerifyReport> Verify(const Digest& digest, ChunkVerifier& verifier);

  // Takes back the chunks of all blobs whose file was removed, replaced or cut short by somebody else, and
  // returns how many. A blob with leases is refused instead: its readers hold the file that was lost.
  size_t CheckFiles();

  // Errors: NotFound; Unavailable, ResourceExhausted (the disk).
  absl::Status Pin(const Digest& digest);
  absl::Status Unpin(const Digest& digest);

  // Notes an access for the least-recently-used order. Cheap; reaches the disk once in a while. The order
  // holds when the wall clock jumps.
  void Touch(const Digest& digest);

  // Whether the blob is settled: all chunks present, durable and proven by a recipe or by the whole digest.
  bool IsSettled(const Digest& digest) const;
  absl::StatusOr<BlobInfo> Stat(const Digest& digest) const;
  std::vector<BlobInfo> List() const;

 private:
  using Entry = std::shared_ptr<BlobEntry>;

  DiskStore(Options options, DataDir data_dir);

  // disk_store_open.cc: what is done once.
  absl::Status OpenIndex();
  absl::Status LoadIndex();
  absl::Status AddLoadedBlob(const Digest& digest, BlobRecord record);
  absl::Status AddLoadedSegment(const Digest& digest, SegmentIndex segment, const PresenceSegment& value);
  absl::Status RebuildIndex(const std::string& reason);
  absl::Status ReconcileFiles();
  bool FileIsWhole(BlobEntry& entry);
  absl::Status RepairFiles(const std::vector<Entry>& lost);
  absl::Status RemoveOrphans();
  void StartThreads();

  // disk_store.cc
  Entry FindEntry(const Digest& digest) const;
  static std::shared_ptr<Blob> BlobOf(BlobEntry& entry);
  std::vector<Entry> Entries() const;
  absl::StatusOr<std::shared_ptr<Blob>> Register(const BlobSpec& spec);
  absl::StatusOr<std::shared_ptr<Blob>> Extend(BlobEntry& entry, const BlobSpec& spec);
  absl::StatusOr<BlobFdCache::Fd> OpenForWrite(BlobEntry& entry);
  absl::Status MakeFile(const Digest& digest, uint64_t size);
  absl::Status CommitChunk(const Entry& entry, Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                           Evidence evidence);
  bool RaiseEvidence(const Entry& entry, const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                     const BlobFdCache::Fd& fd);
  absl::Status WriteChunk(const Entry& entry, const Blob& blob, ChunkIndex index,
                          std::span<const std::byte> bytes, Evidence evidence, const BlobFdCache::Fd& fd);
  static ByteRange RoomFor(const Blob& blob, ChunkIndex index);
  absl::Status Reserve(int fd, ByteRange range);
  absl::Status WriteBytes(int fd, ByteRange room, ByteRange range, std::span<const std::byte> bytes);
  bool HoldsBytes(int fd, ByteRange range, std::span<const std::byte> bytes) const;
  absl::Status DeleteRecord(const Blob& blob);
  absl::Status BeginEvict(BlobEntry& entry, EvictReason reason);
  enum class Pinning { kPinned, kFree };
  absl::Status SetPinned(const Digest& digest, Pinning pinning);
  std::mutex& StripeOf(const Digest& digest, ChunkIndex index);

  // disk_store_sync.cc: from written to claimed to settled. On the sync thread, except Queue,
  // QueueIsFull, DropClaims, NotifyRevoked and SetDiskBytes.
  void Queue(const Entry& entry, uint64_t bytes);
  bool QueueIsFull();
  void RunBatch();
  absl::Status SyncFile(BlobEntry& entry);
  absl::Status ClaimSynced(const std::vector<Entry>& synced);
  void FailSync(BlobEntry& entry, const absl::Status& why);
  void Settle(BlobEntry& entry);
  void WriteRecords();
  absl::Status DropClaims(BlobEntry& entry);
  void NotifyRevoked(const Blob& blob);
  void SetDiskBytes(BlobEntry& entry, uint64_t disk_bytes);

  // disk_store_check.cc: holding what is on disk against what it should be.
  enum class FileCheck { kSame, kLost };
  FileCheck CheckFile(const Blob& blob, int fd) const;
  void LoseFile(BlobEntry& entry);
  void Refuse(BlobEntry& entry, const std::string& why);
  enum class ChunkCheck { kOk, kBad, kUnverifiable };
  ChunkCheck VerifyChunk(const Entry& entry, Blob& blob, ChunkIndex index, int fd,
                         std::span<std::byte> buffer, ChunkVerifier& verifier);
  bool RecordVerified(const Entry& entry, const Blob& blob, ChunkIndex index, uint64_t revision);
  void CheckWhole(const Digest& digest, const std::atomic<bool>& stop);
  enum class WholeCheck { kMatches, kDiffers, kInconclusive };
  WholeCheck HoldAgainstDigest(const Entry& entry, const std::atomic<bool>& stop);
  void TakeBackRotten(Blob& blob, ChunkIndex index, const absl::Status& why);
  void TakeBackWrong(BlobEntry& entry, BlobState known, const Digest& found);
  void MarkVerifiedWhole(BlobEntry& entry, uint64_t revision);
  void Alarm(const std::string& text) const;

  // Constant after construction, or thread-safe.
  const Options options_;
  const DataDir data_dir_;
  BlobFdCache fds_;
  std::unique_ptr<IndexDb> db_;
  OpenReport report_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> directory_changed_{false};  // files were made since blobs/ was synced
  std::atomic<bool> reserve_works_{true};
  std::atomic<int64_t> last_access_ms_{0};

  // In the order in which they may be taken together; BlobEntry::mutex comes last.
  //
  // Makes announcing and revoking take turns.
  std::mutex notify_mutex_;
  // Serialises index writes with the decisions behind them, so that they reach the disk in the same order.
  std::mutex write_mutex_;
  // Guards entries_, and BlobEntry::blob.
  mutable std::shared_mutex map_mutex_;
  absl::flat_hash_map<Digest, Entry> entries_;

  // One of them is held while a chunk is written, so that no two writers of one chunk mix. Taken before all.
  std::array<std::mutex, 64> stripes_;

  std::mutex queue_mutex_;
  std::vector<Entry> queue_;    // for the next batch; guarded by queue_mutex_
  Instant records_written_at_;  // sync thread only

  std::unique_ptr<BlobHasher> hasher_;
  std::unique_ptr<SyncLoop> sync_;
};

}  // namespace sluice::index
