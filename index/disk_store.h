#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/blob_checker.h"
#include "index/blob_files.h"
#include "index/blob_hasher.h"
#include "index/blob_lifecycle.h"
#include "index/chunk_writer.h"
#include "index/claim_log.h"
#include "index/content_files.h"
#include "index/content_importer.h"
#include "index/data_dir.h"
#include "index/disk_usage.h"
#include "index/entry_table.h"
#include "index/file_descriptor.h"
#include "index/file_guard.h"
#include "index/index_loader.h"
#include "index/notifier.h"
#include "index/recipe_files.h"
#include "index/rocks_index.h"
#include "index/store_file_system.h"
#include "index/syncer.h"
#include "index/threads.h"
#include "node/blob.h"
#include "node/blob_reader.h"
#include "node/chunk_store.h"
#include "node/chunk_verifier.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "node/recipe_maker.h"
#include "node/recipe_store.h"
#include "node/telemetry.h"

namespace sluice::index {

// Why room is wanted: the store would outgrow its capacity, or the disk has none left.
enum class RoomNeed { kCapacity, kDiskFull };

struct DiskStoreOptions {
  std::string data_dir;
  std::string content_dir = {};  // the folder of containerd's content store; empty: nothing is imported
  Telemetry& telemetry;          // outlives the store
  StoreFileSystem& file_system = StoreFileSystem::Real();

  Duration sync_interval = std::chrono::milliseconds(100);  // from a write to its claim, at most about
  uint64_t sync_bytes_max = 64 << 20;                       // written and unclaimed; more hurries the sync
  size_t open_files_max = 256;  // kept open; never more than a quarter of RLIMIT_NOFILE

  // Both come on a thread of the notices', in order per blob, and again, later and later, until they return
  // OK; what goes on failing, but for Aborted (nobody can hear it yet), is an alarm. They must not call back
  // into the store, except for its const methods.
  //
  // A blob became settled: all chunks present, durable and proven (see DiskStore::IsSettled). May come again
  // after a chunk was taken back.
  std::function<absl::Status(const std::shared_ptr<Blob>&)> on_complete = nullptr;
  // Chunks were taken back and their presence bits are clear already: the kernel must ask from now on. Their
  // bytes are not overwritten, nor their file removed, before this returned OK. Comes at open, too, for what
  // the store believes no longer.
  std::function<absl::Status(const Blob&)> on_revoke = nullptr;
  // Whether the file is mounted, so that it must not be unlinked even if the index does not know it. At open.
  std::function<bool(const BlobKey&)> is_mounted = nullptr;
  // Of a blob whose whole digest holds, and of which no recipe has proven every chunk; empty: it stays
  // without.
  MakeRecipe make_recipe = nullptr;
  // Holds a chunk against its recipe, as ChunkVerifier::Verify; empty: what is here unproven stays so until
  // its blob is whole.
  VerifyChunk verify_chunk = nullptr;
  // These bytes were here as unproven, and are not what the recipe promises: they are taken back when this
  // returns, and then the task is run. On the hasher's thread.
  OnWrongChunk on_wrong_chunk = nullptr;
  // A whole blob that was not proven, and that is not mounted, is not what its digest says: whether all of it
  // is to be taken back and had once more, so that it is refused only if that is wrong, too.
  std::function<bool(const Blob&)> had_again = nullptr;
  // Room is wanted for so many bytes more: returns when it was made, or can't be. Before each chunk is
  // written, and again when the disk was full, before it is tried once more. On the writer's thread; it may
  // wait, and may evict.
  std::function<void(uint64_t bytes, RoomNeed need)> make_room = nullptr;
  // Something that people must know: a refused blob, a damaged index, a lost file. On any thread.
  std::function<void(const std::string&)> alarm = nullptr;
  // The wall clock, milliseconds since 1970; the system's if empty. For last accesses, and for when blobs
  // were found public.
  std::function<int64_t()> wall_clock_ms = nullptr;

  // How long a commit, a revocation or an eviction waits for on_revoke, before it is Unavailable. After an
  // error of on_revoke for that blob none waits, until it was heard.
  Duration notice_wait_max = std::chrono::milliseconds(500);
  // With kNone nothing happens by itself: see DiskStore::RunBatch.
  Threads threads = Threads::kOwn;
  OpenIndex open_index = OpenRocksIndex;
};

// What was found when the store was opened.
struct OpenReport {
  uint64_t blobs = 0;
  uint64_t chunks_present = 0;
  uint64_t files_lost = 0;       // missing, too short, or other files: their chunks are absent now
  uint64_t orphans_removed = 0;  // files that no record named
  bool rebuilt = false;          // the index was lost or damaged and begun anew
  std::string reason;            // why; empty if not rebuilt
};

struct BlobInfo {
  BlobKey key;
  Digest digest;
  std::vector<BlobOrigin> origins;          // the newest first
  std::map<BlobOrigin, StoredForm> stored;  // how those keep it that don't keep it plain
  uint64_t size = 0;
  uint32_t chunk_size = 0;
  uint32_t present_chunks = 0;
  uint64_t present_bytes = 0;
  uint64_t disk_bytes = 0;  // allocated, as the file system counted at the last sync, and reserved since
  BlobState state = BlobState::kActive;
  bool refused = false;  // no byte of it is served: see `state` for why
  bool pinned = false;
  uint32_t leases = 0;
  int64_t last_access_ms = 0;  // wall clock, milliseconds since 1970
  bool root_known = false;
};

// The local chunk store: one sparse file per blob, and an index that never claims what is not on disk.
//
// A committed chunk is servable at once. Its durable claim follows in a batch: the files are synced, then one
// index write claims their chunks; if either fails, the chunks are taken back. A crash loses at most the
// claims of the last batch. What can't be proven present after a restart is absent: claims hold for the very
// file that they were made over (see FileIdentity).
//
// Thread-safe. Find, Acquire, Touch, Stat, List, IsSettled, ProvenChunks and what is said of access take no
// disk access; all others may block on it.
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
  // Returns when all that was committed before has been claimed or taken back, and was told to the callbacks
  // (or could not be told).
  void Flush();

  // For Threads::kNone: each does one piece of the work that the store's threads would do, and returns
  // whether there was any. A batch of syncs and claims; a callback; the hash of a whole blob.
  bool RunBatch() { return syncer_.RunBatch(); }
  bool RunNotice() { return notifier_.RunOne(); }
  bool RunHash() { return hasher_.RunOne(); }

  // ChunkStore. Open also refuses blobs of size 0 (InvalidArgument): the empty blob has nothing to fetch; it
  // waits for an eviction of the blob that is under way.
  absl::StatusOr<std::shared_ptr<Blob>> Open(const BlobSpec& spec) override;
  std::shared_ptr<Blob> Find(const BlobKey& key) const override;
  std::shared_ptr<Blob> FindBest(const Digest& digest) const override;
  // The very blob that a mount uses, registered under that key if there is none. Errors: those of Open;
  // InvalidArgument (something else is kept by that key, or readers of `spec` may not share it).
  absl::StatusOr<std::shared_ptr<Blob>> OpenAs(const BlobKey& key, const BlobSpec& spec);
  // An origin that has not given anything is none, as it turned out. No-op if the blob is not known. Errors:
  // Unavailable, ResourceExhausted (the disk).
  absl::Status ForgetOrigin(const BlobKey& key, const BlobOrigin& origin);
  // Of all that is kept of the digest; its own name, if it is among them, first.
  std::vector<BlobKey> KeysOf(const Digest& digest) const;
  // The blobs that some origin of theirs keeps compressed under that digest, in their order; one, but for
  // manifests that lie. Looks at all blobs.
  std::vector<Digest> StoredAs(const Digest& stored) const;
  absl::StatusOr<Blob::Lease> Acquire(const BlobKey& key) const override;
  absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                      Evidence evidence) override;
  absl::Status Revoke(Blob& blob, ChunkIndex index) override;

  // RecipeStore.
  absl::StatusOr<std::string> GetRecipe(const BlobKey& blob) override;
  absl::Status PutRecipe(const BlobKey& blob, std::string_view recipe) override;

  // BlobReader.
  absl::StatusOr<std::shared_ptr<const BlobFile>> OpenFile(const BlobKey& key) override;
  bool AllProven(const Blob& blob, ChunkSpan span) const override;

  // AccessLedger.
  void NoteAccess(const BlobKey& key, const BlobOrigin& origin, OriginAccess access) override;
  OriginAccess AccessOf(const BlobKey& key, const BlobOrigin& origin) const override;
  void NoteHearsay(const BlobKey& key, const BlobOrigin& origin, Duration age) override;
  Duration PublicAge(const BlobKey& key, const BlobOrigin& origin) const override;
  // The same of what was found out at another time, which is what FoundPublicAt says if it is the latest.
  void NoteAccess(const BlobKey& key, const BlobOrigin& origin, OriginAccess access, int64_t found_at_ms);
  // When the origin last gave the blob to everybody, to this node or by the word of a member, which says how
  // long ago that was. The wall clock, milliseconds since 1970; 0: never, or before this was kept.
  int64_t FoundPublicAt(const BlobKey& key, const BlobOrigin& origin) const;

  // The blob's file, for reading. Errors: NotFound (no such blob); DataLoss (refused, or the file was lost:
  // then its chunks have been taken back); Unavailable.
  absl::StatusOr<FileDescriptor> OpenForRead(const BlobKey& key);
  std::string BlobPath(const BlobKey& key) const;
  std::string blobs_dir() const;

  // Takes the blob off the disk with its recipe. Errors: NotFound; FailedPrecondition (leased, or pinned and
  // `reason` is not kCorrupt); Unavailable, ResourceExhausted (the disk, or on_revoke; then all chunks are
  // absent, and the call may be repeated).
  absl::Status Evict(const BlobKey& key, EvictReason reason);

  // Reads every present chunk again and holds it against the recipe, or the whole file against the digest.
  // Errors: NotFound; DataLoss (refused); Unavailable; Cancelled (as asked, or the store stops).
  absl::StatusOr<VerifyReport> Verify(const BlobKey& key, ChunkVerifier& verifier,
                                      const CancelCheck& cancelled = {},
                                      const OnVerifyProgress& on_progress = nullptr);

  // How many chunks went with a file that was lost, or was found to be a copy, since this was asked last;
  // they may be here again. 0 if there is no such blob.
  uint32_t TakeLostChunks(const BlobKey& key);

  // Has what is here unproven held against the recipes, in the background: what came since is anyway, when
  // its recipe comes.
  void CheckUnproven();

  // Takes back the chunks of all blobs whose file was removed, replaced or cut short by somebody else, and
  // returns how many. A blob with leases of its file is refused instead.
  size_t CheckFiles();
  // The same for one blob, before it is put to a use that its file is read for unasked. No-op if it is
  // unknown.
  void CheckFile(const BlobKey& key);

  // disk_store_import.cc: what containerd's content store holds. A blob that is read in place is whole, takes
  // up nothing, and goes when containerd's file does: what vanishes or changes is found when it is opened
  // next, and by CheckFiles. No registry is known to have given it (see IsImported).
  //
  // What is there by name, in any order. Errors: NotFound (there is no such folder, or nothing is imported);
  // PermissionDenied; Unavailable.
  absl::StatusOr<std::vector<Digest>> ListContent() const { return content_.List(); }
  // As ContentImporter::Import; an entry of the digest that has no chunk and that nobody uses makes way.
  absl::StatusOr<ImportedAs> Import(const Digest& digest, const CancelCheck& stop);
  // Whether it was imported: nobody may have it but whose registry says that it has it.
  bool IsImported(const BlobKey& key) const;
  // Before its file is mounted: what is read in place is given up, and its chunks are absent.
  void MakeOwn(const BlobKey& key);

  // Errors: NotFound; Unavailable, ResourceExhausted (the disk).
  absl::Status Pin(const BlobKey& key);
  absl::Status Unpin(const BlobKey& key);

  // Notes an access for the least-recently-used order. Cheap; reaches the disk once in a while. The order
  // holds when the wall clock jumps.
  void Touch(const BlobKey& key);

  // Whether the blob is settled: all chunks present, durable and proven, and the whole digest hashed once.
  bool IsSettled(const BlobKey& key) const;
  // Its present chunks that are proven; NotFound.
  absl::StatusOr<ChunkSet> ProvenChunks(const BlobKey& key) const;
  absl::StatusOr<BlobInfo> Stat(const BlobKey& key) const;
  std::vector<BlobInfo> List() const;

  // Bytes that the store takes up on its disk, reservations counted: blobs' files, and (some seconds old)
  // index, recipes and reserve. Takes no disk access.
  uint64_t UsedBytes() const { return usage_.blob_bytes() + usage_.rest_bytes(); }

 private:
  DiskStore(Options options, DataDir data_dir, std::unique_ptr<EntryTable> table, LoadedIndex index);

  // disk_store_open.cc: holding the index against the files that are there.
  absl::Status Reconcile(IndexContents contents);
  std::vector<EntryPtr> FindLost();
  absl::Status Repair(const std::vector<EntryPtr>& lost, IndexContents contents);
  void MakeAnew(const EntryPtr& entry);
  absl::Status RemoveStrangers();
  void TakeUpWork();
  void DropEmptied();

  EntryPtr FindEntry(const BlobKey& key) const { return table_->Find(key); }
  int64_t WallClockMs() const;
  absl::Status SetPinned(const BlobKey& key, bool pinned);
  bool IsMounted(const BlobKey& id) const { return options_.is_mounted && options_.is_mounted(id); }
  void Alarm(const std::string& text) const {
    if (options_.alarm) options_.alarm(text);
  }

  // Constant after construction, or thread-safe. Each works with those above it, and is stopped before them.
  const Options options_;
  const DataDir data_dir_;
  OpenReport report_;
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> last_access_ms_{0};

  const std::unique_ptr<EntryTable> table_;
  DiskUsage usage_;
  const ContentFiles content_;
  BlobFiles files_;
  RecipeFiles recipes_;
  ClaimLog log_;
  Notifier notifier_;
  FileGuard guard_;
  Syncer syncer_;
  ChunkWriter writer_;
  BlobChecker checker_;
  BlobLifecycle lifecycle_;
  ContentImporter importer_;
  BlobHasher hasher_;
};

}  // namespace sluice::index
