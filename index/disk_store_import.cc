// What containerd's content store holds: taken in without a second copy, and dropped when it is there no
// more.
#include <mutex>

#include "index/disk_store.h"

namespace sluice::index {

absl::StatusOr<ImportedAs> DiskStore::Import(const Digest& digest, const CancelCheck& stop) {
  for (const EntryPtr& entry : table_->FindAll(digest)) {
    bool is_empty = false;
    {
      const std::lock_guard lock(entry->mutex);
      is_empty = entry->blob->presence().present_count() == 0 && entry->blob->lease_count() == 0 &&
                 !entry->blob->refused() && !entry->record.pinned;
    }
    // Only its name is known. Who is about to read it opens it again.
    if (is_empty) lifecycle_.Evict(entry, EvictReason::kRequested).IgnoreError();
  }
  const absl::StatusOr<ImportedAs> imported =
      importer_.Import(digest, CancelCheck([&] { return stopping_ || stop; }));
  if (!imported.ok()) return imported;
  const EntryPtr entry = FindEntry(digest);
  if (!entry) return imported;
  if (*imported == ImportedAs::kReflinked) {
    if (const absl::StatusOr<FileDescriptor> file = guard_.OpenForRead(entry); file.ok())
      guard_.CheckSynced(entry, file->get()).IgnoreError();  // what it takes up is noted
  }
  syncer_.Settle(entry);
  return imported;
}

bool DiskStore::IsImported(const BlobKey& key) const {
  const EntryPtr entry = FindEntry(key);
  if (!entry) return false;
  const std::lock_guard lock(entry->mutex);
  return entry->record.is_imported;
}

void DiskStore::MakeOwn(const BlobKey& key) {
  if (const EntryPtr entry = FindEntry(key)) guard_.MakeOwn(entry);
}

// What was imported and has gone with its file is not kept as a name without a byte.
void DiskStore::DropEmptied() {
  for (const EntryPtr& entry : table_->All()) {
    {
      const std::lock_guard lock(entry->mutex);
      if (!entry->was_imported) continue;
      if (entry->blob->presence().present_count() > 0) entry->was_imported = false;
      if (!entry->was_imported || entry->blob->lease_count() > 0 || entry->record.pinned) continue;
    }
    lifecycle_.Evict(entry, EvictReason::kRequested).IgnoreError();  // else at the next look
  }
}

}  // namespace sluice::index
