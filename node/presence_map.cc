#include "node/presence_map.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

namespace sluice {

PresenceMap::PresenceMap(uint32_t chunk_count)
    : chunk_count_(chunk_count), words_(std::make_unique<Word[]>(WordsFor(chunk_count))) {}

ChunkSpan PresenceMap::FirstAbsent(ChunkSpan span, uint32_t count_max) const {
  const auto words = [this](size_t word) { return WordAt(word); };
  const uint32_t first = bits::NextClear(words, span.first.value(), span.end().value());
  const uint32_t end = std::min(span.end().value() - first, count_max) + first;
  return {ChunkIndex(first), bits::NextSet(words, first, end) - first};
}

uint32_t PresenceMap::CountIn(ChunkSpan span) const {
  return bits::CountIn([this](size_t word) { return WordAt(word); }, span.first.value(), span.end().value());
}

ChunkSet PresenceMap::Snapshot() const {
  ChunkSet present(chunk_count_);
  for (size_t i = 0; i < present.words().size(); ++i) present.SetWord(i, WordAt(i));
  return present;
}

bool PresenceMap::Set(ChunkIndex index) {
  std::lock_guard lock(mutex_);
  const uint64_t bit = bits::MaskOf(index.value());
  // First: who finds the chunk in the map may look at the mirror next.
  if (!mirror_.empty()) mirror_[index.value() / bits::kPerWord].fetch_or(bit, std::memory_order_release);
  const bool changed =
      !(words_[index.value() / bits::kPerWord].fetch_or(bit, std::memory_order_release) & bit);
  if (changed) present_count_.fetch_add(1, std::memory_order_relaxed);
  return changed;
}

bool PresenceMap::Clear(ChunkIndex index) {
  std::lock_guard lock(mutex_);
  const uint64_t bit = bits::MaskOf(index.value());
  if (!mirror_.empty()) mirror_[index.value() / bits::kPerWord].fetch_and(~bit, std::memory_order_seq_cst);
  const bool changed =
      words_[index.value() / bits::kPerWord].fetch_and(~bit, std::memory_order_seq_cst) & bit;
  if (changed) present_count_.fetch_sub(1, std::memory_order_relaxed);
  return changed;
}

uint32_t PresenceMap::SetSlice(ChunkIndex first, const ChunkSet& slice) {
  std::lock_guard lock(mutex_);
  uint32_t changed = 0;
  for (size_t i = 0; i < slice.words().size(); ++i) {
    const size_t at = first.value() / bits::kPerWord + i;
    const uint64_t word = slice.words()[i];
    if (!mirror_.empty()) mirror_[at].fetch_or(word, std::memory_order_release);
    const uint64_t before = words_[at].fetch_or(word, std::memory_order_release);
    changed += static_cast<uint32_t>(std::popcount(word & ~before));
  }
  present_count_.fetch_add(changed, std::memory_order_relaxed);
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
