#include "p2p/recipe/leaf_cache.h"

#include <iterator>

namespace sluice::p2p {

void LeafCache::Watch(const Digest& blob) {
  std::lock_guard lock(mutex_);
  ++watches_[blob];
}

void LeafCache::Unwatch(const Digest& blob) {
  std::lock_guard lock(mutex_);
  const auto found = watches_.find(blob);
  if (found == watches_.end() || --found->second > 0) return;
  watches_.erase(found);
  for (auto entry = order_.begin(); entry != order_.end();) {
    const auto next = std::next(entry);
    if (entry->key.first == blob) Drop(entry);
    entry = next;
  }
}

bool LeafCache::Watches(const Digest& blob) const {
  std::lock_guard lock(mutex_);
  return watches_.contains(blob);
}

void LeafCache::Put(const Digest& blob, ChunkIndex index, std::vector<Digest> leaves) {
  std::lock_guard lock(mutex_);
  if (!watches_.contains(blob)) return;
  const Key key{blob, index};
  if (const auto old = entries_.find(key); old != entries_.end()) Drop(old->second);
  bytes_ += leaves.size() * sizeof(Digest);
  order_.push_back({key, std::move(leaves)});
  entries_[key] = std::prev(order_.end());
  while (bytes_ > bytes_max_) Drop(order_.begin());
}

std::vector<Digest> LeafCache::Take(const Digest& blob, ChunkIndex index) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find({blob, index});
  if (found == entries_.end()) return {};
  std::vector<Digest> leaves = found->second->leaves;
  Drop(found->second);
  return leaves;
}

uint64_t LeafCache::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

void LeafCache::Drop(Order::iterator entry) {
  bytes_ -= entry->leaves.size() * sizeof(Digest);
  entries_.erase(entry->key);
  order_.erase(entry);
}

}  // namespace sluice::p2p
