#include "node/presence_map.h"

#include <cstdlib>

namespace sluice {
namespace {

constexpr uint64_t Bit(ChunkIndex index) {
  return uint64_t{1} << (index.value() % 64);
}

}  // namespace

PresenceMap::PresenceMap(uint32_t chunk_count)
    : chunk_count_(chunk_count), words_(std::make_unique<Word[]>(WordsFor(chunk_count))) {}

bool PresenceMap::AllPresent(ChunkSpan span) const {
  return FirstAbsent(span, 1).count == 0;
}

ChunkSpan PresenceMap::FirstAbsent(ChunkSpan span, uint32_t count_max) const {
  ChunkIndex index = span.first;
  while (index < span.end() && IsPresent(index)) index = index.next();
  ChunkSpan absent{index, 0};
  while (absent.end() < span.end() && absent.count < count_max && !IsPresent(absent.end())) ++absent.count;
  return absent;
}

bool PresenceMap::Set(ChunkIndex index) {
  std::lock_guard lock(mutex_);
  const uint64_t bit = Bit(index);
  // Before the map: who finds the chunk there may look at the mirror next.
  if (!mirror_.empty()) mirror_[index.value() / 64].fetch_or(bit, std::memory_order_release);
  const bool changed = !(words_[index.value() / 64].fetch_or(bit, std::memory_order_release) & bit);
  if (changed) present_count_.fetch_add(1, std::memory_order_relaxed);
  return changed;
}

bool PresenceMap::Clear(ChunkIndex index) {
  std::lock_guard lock(mutex_);
  const uint64_t bit = Bit(index);
  if (!mirror_.empty()) mirror_[index.value() / 64].fetch_and(~bit, std::memory_order_seq_cst);
  const bool changed = words_[index.value() / 64].fetch_and(~bit, std::memory_order_seq_cst) & bit;
  if (changed) present_count_.fetch_sub(1, std::memory_order_relaxed);
  return changed;
}

void PresenceMap::ClearAll() {
  std::lock_guard lock(mutex_);
  for (Word& word : mirror_) word.store(0, std::memory_order_seq_cst);
  for (size_t i = 0; i < WordsFor(chunk_count_); ++i) words_[i].store(0, std::memory_order_seq_cst);
  present_count_.store(0, std::memory_order_relaxed);
}

void PresenceMap::Attach(std::span<Word> mirror) {
  std::lock_guard lock(mutex_);
  if (mirror.size() < WordsFor(chunk_count_)) std::abort();
  for (Word& word : mirror_) word.store(0, std::memory_order_seq_cst);
  mirror_ = mirror.first(WordsFor(chunk_count_));
  for (size_t i = 0; i < mirror_.size(); ++i) mirror_[i].store(words_[i].load(), std::memory_order_seq_cst);
}

void PresenceMap::Detach() {
  std::lock_guard lock(mutex_);
  for (Word& word : mirror_) word.store(0, std::memory_order_seq_cst);
  mirror_ = {};
}

}  // namespace sluice
