#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "index/blob_entry.h"
#include "node/blob_key.h"
#include "node/digest.h"

namespace sluice::index {

// The store's entries by their keys, and by the digests that they are claims of. Its lock may be taken before
// a BlobEntry::mutex, never after one.
//
// Thread-safe; takes no disk access.
class EntryTable {
 public:
  // Null if there is none.
  EntryPtr Find(const BlobKey& id) const {
    std::shared_lock lock(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second;
  }
  std::shared_ptr<Blob> FindBlob(const BlobKey& id) const {
    std::shared_lock lock(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second->blob;
  }
  // All of a digest; the one that has its name, if there is one, first.
  std::vector<EntryPtr> FindAll(const Digest& digest) const {
    std::vector<EntryPtr> all;
    std::shared_lock lock(mutex_);
    const auto add = [&](const BlobKey& key) {
      const auto found = entries_.find(key);
      if (found != entries_.end() && found->second->blob->digest() == digest) all.push_back(found->second);
    };
    add(BlobKey(digest));
    if (const auto beside = beside_.find(digest); beside != beside_.end()) {
      for (const BlobKey& key : beside->second) add(key);
    }
    return all;
  }
  // In the order of their keys.
  std::vector<EntryPtr> All() const {
    std::shared_lock lock(mutex_);
    std::vector<EntryPtr> all;
    all.reserve(entries_.size());
    for (const auto& [id, entry] : entries_) all.push_back(entry);
    lock.unlock();
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->id < b->id; });
    return all;
  }

  // REQUIRES: there is none of its key
  void Insert(EntryPtr entry) {
    std::unique_lock lock(mutex_);
    const Digest& digest = entry->blob->digest();
    if (!entry->id.IsOf(digest)) beside_[digest].push_back(entry->id);
    const BlobKey id = entry->id;
    entries_.emplace(id, std::move(entry));
  }
  void Erase(const BlobKey& id) {
    std::unique_lock lock(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;
    const Digest digest = found->second->blob->digest();
    entries_.erase(found);
    const auto beside = beside_.find(digest);
    if (beside == beside_.end()) return;
    std::erase(beside->second, id);
    if (beside->second.empty()) beside_.erase(beside);
  }
  void Clear() {
    std::unique_lock lock(mutex_);
    entries_.clear();
    beside_.clear();
  }

 private:
  mutable std::shared_mutex mutex_;  // guards what follows
  absl::flat_hash_map<BlobKey, EntryPtr> entries_;
  absl::flat_hash_map<Digest, std::vector<BlobKey>> beside_;  // those that have not the digest's own name
};

}  // namespace sluice::index
