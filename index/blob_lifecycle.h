#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/blob_files.h"
#include "index/claim_log.h"
#include "index/data_dir.h"
#include "index/disk_usage.h"
#include "index/entry_table.h"
#include "index/file_guard.h"
#include "index/notifier.h"
#include "index/recipe_files.h"
#include "node/blob.h"
#include "node/recipe_maker.h"
#include "node/telemetry.h"

namespace sluice::index {

// How blobs come into the store and leave it.
//
// Thread-safe; every method may block on disk. REQUIRES: no entry is locked by the caller.
class BlobLifecycle {
 public:
  // How long Open waits for an eviction of the same blob that is under way.
  static constexpr Duration kEvictionWaitMax = std::chrono::seconds(5);

  // All outlive this.
  struct Parts {
    const DataDir& data_dir;
    EntryTable& table;
    BlobFiles& files;
    FileGuard& guard;
    ClaimLog& log;
    Notifier& notifier;
    RecipeFiles& recipes;
    DiskUsage& usage;
    Telemetry& telemetry;
    std::function<void(const BlobKey&)> stop_hashing;  // what holds its file open
    std::function<void(const BlobKey&)> check;         // what was unproven, and may not be any more
    std::function<bool(const BlobKey&)> is_mounted;    // when the store was opened
  };
  explicit BlobLifecycle(Parts parts) : parts_(parts) {}

  // As ChunkStore::Open.
  absl::StatusOr<std::shared_ptr<Blob>> Open(const BlobSpec& spec);
  // As DiskStore::OpenAs.
  absl::StatusOr<std::shared_ptr<Blob>> OpenAs(const BlobKey& key, const BlobSpec& spec);
  // As DiskStore::ForgetOrigin.
  absl::Status ForgetOrigin(BlobEntry& entry, const BlobOrigin& origin);
  // As DiskStore::Evict.
  absl::Status Evict(const EntryPtr& entry, EvictReason reason);

  // Whether anything is kept of the digest.
  bool IsKept(const Digest& digest) const { return !parts_.table.FindAll(digest).empty(); }
  // Registers a blob whose every byte was hashed, in the file that `take_file` gives: present, proven and
  // claimed. `take_file` is called once, if nothing is kept of the digest, while nobody can register it.
  // Errors: AlreadyExists; those of `take_file`, the recipe's file and the index. Then nothing has changed.
  absl::Status RegisterWhole(const Digest& digest, BlobRecord record,
                             const std::function<absl::StatusOr<FileIdentity>()>& take_file,
                             const std::optional<RecipeMaker::Made>& recipe);

 private:
  absl::StatusOr<EntryPtr> Choose(const BlobSpec& spec) const;
  bool IsLeaving(const Digest& digest) const;
  absl::StatusOr<std::shared_ptr<Blob>> Register(const BlobKey& key, const BlobSpec& spec);
  absl::StatusOr<BlobKey> FreeKey(const BlobSpec& spec) const;
  absl::Status Extend(const EntryPtr& entry, const BlobSpec& spec);
  absl::Status ExtendMounted(const EntryPtr& entry, const BlobSpec& spec);
  absl::Status BeginEvict(const EntryPtr& entry, EvictReason reason);
  absl::Status FinishEvict(const EntryPtr& entry, EvictReason reason);
  absl::Status DeleteRecord(const EntryPtr& entry);
  void EndEviction(const EntryPtr& entry);

  const Parts parts_;
  // Registering, extending, and the beginning and end of an eviction take turns. Taken before all other locks
  // but the stripes of ChunkWriter.
  std::mutex mutex_;
  std::condition_variable eviction_ended_;
  absl::flat_hash_set<BlobKey> released_;  // of the mounted ones, those evicted since; guarded by mutex_
};

}  // namespace sluice::index
