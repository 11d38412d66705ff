#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "index/blob_entry.h"
#include "index/entry_id.h"

namespace sluice::index {

// The store's entries by their ids. Its lock may be taken before a BlobEntry::mutex, never after one.
//
// Thread-safe; takes no disk access.
class EntryTable {
 public:
  // Null if there is none.
  EntryPtr Find(const EntryId& id) const {
    std::shared_lock lock(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second;
  }
  std::shared_ptr<Blob> FindBlob(const EntryId& id) const {
    std::shared_lock lock(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second->blob;
  }
  // In the order of their ids.
  std::vector<EntryPtr> All() const {
    std::shared_lock lock(mutex_);
    std::vector<EntryPtr> all;
    all.reserve(entries_.size());
    for (const auto& [id, entry] : entries_) all.push_back(entry);
    lock.unlock();
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->id < b->id; });
    return all;
  }

  void Insert(EntryPtr entry) {
    std::unique_lock lock(mutex_);
    const EntryId id = entry->id;
    entries_[id] = std::move(entry);
  }
  void Erase(const EntryId& id) {
    std::unique_lock lock(mutex_);
    entries_.erase(id);
  }
  void Clear() {
    std::unique_lock lock(mutex_);
    entries_.clear();
  }
  // Calls `change`, which may give `entry` another Blob, with the table and the entry locked.
  template <typename Change>
  auto ChangeBlob(BlobEntry& entry, const Change& change) {
    std::unique_lock lock(mutex_);
    std::lock_guard entry_lock(entry.mutex);
    return change();
  }

 private:
  mutable std::shared_mutex mutex_;  // guards entries_, and BlobEntry::blob together with BlobEntry::mutex
  absl::flat_hash_map<EntryId, EntryPtr> entries_;
};

}  // namespace sluice::index
