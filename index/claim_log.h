#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "index/blob_entry.h"
#include "index/index_db.h"

namespace sluice::index {

// What may be said of a chunk in the index, and in which order it gets there. Every write is decided under
// one lock and reaches the index in the order of the decisions, so that no older state can overtake a newer
// one:
//
//   - a blob's record comes before its claims, and goes with them or after them;
//   - a chunk is claimed only in a batch that its file was synced before, and only while it is present;
//   - a claim is gone, synced, before its bytes are overwritten or its file is removed.
//
// A batch that failed may have reached the disk all the same: what it claimed counts as claimed until it was
// dropped.
//
// Thread-safe; every method may block on disk. Errors of all: ResourceExhausted (no space), DataLoss (the
// index is damaged), Unavailable. REQUIRES: no entry is locked by the caller.
class ClaimLog {
 public:
  explicit ClaimLog(std::unique_ptr<IndexDb> db) : db_(std::move(db)) {}

  // Puts a record that no claim depends on: a new blob's, or one that says more of where it is to be had.
  absl::Status PutRecord(const BlobKey& id, const BlobRecord& record);
  // Changes the record of an entry, on disk and in memory or in neither. No-op if it is being evicted.
  // `change` may be called twice.
  absl::Status ChangeRecord(BlobEntry& entry, const std::function<void(BlobRecord&)>& change,
                            Durability durability);
  // Puts the records that have changed.
  absl::Status PutChangedRecords(std::span<const EntryPtr> entries);

  // Claims what is syncing of each entry. REQUIRES: their files were synced since BlobEntry::BeginSync
  absl::Status Claim(std::span<const EntryPtr> entries);
  // Claims that every chunk is proven, and `root` with them, unless something was taken back since
  // `revision`.
  absl::Status ClaimVerifiedWhole(BlobEntry& entry, uint64_t revision, const std::optional<Digest>& root);
  // Drops the claims of chunks that are absent.
  absl::Status Drop(BlobEntry& entry);
  // Drops all claims and puts the record. REQUIRES: all chunks are absent
  absl::Status DropAll(BlobEntry& entry);
  // The same of many in one batch, with all that an earlier version has left.
  absl::Status DropAllAndEarlier(std::span<const EntryPtr> entries);
  // Deletes record and claims. `make_room` is called if there is no space for that, while others may
  // write; it returns whether there may be now. REQUIRES: the entry is being evicted
  absl::Status Delete(const BlobEntry& entry, const std::function<bool()>& make_room);

  // Makes the index work again, after room was made.
  void Reopen() { db_->Reopen(); }

 private:
  absl::Status Write(const IndexBatch& batch, std::span<const EntryPtr> staged, Durability durability);
  absl::Status WriteDeletion(const IndexBatch& batch);

  const std::unique_ptr<IndexDb> db_;
  std::mutex mutex_;  // held from each decision to the end of its write; taken before a BlobEntry::mutex
};

}  // namespace sluice::index
