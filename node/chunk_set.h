#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "node/geometry.h"

namespace sluice {

// Searches among bits that lie in 64-bit words, the lowest bit first: what ChunkSet and PresenceMap share.
// `word_at(i)` gives word i, by whatever load the caller's words need.
namespace bits {

inline constexpr uint32_t kPerWord = 64;

// Words that `count` bits take up.
constexpr size_t WordsFor(uint32_t count) {
  return (size_t{count} + kPerWord - 1) / kPerWord;
}

constexpr uint64_t MaskOf(uint32_t bit) {
  return uint64_t{1} << (bit % kPerWord);
}

// The bits of word `word` that lie in [from, to).
constexpr uint64_t MaskIn(size_t word, uint32_t from, uint32_t to) {
  const uint64_t first = uint64_t{word} * kPerWord;
  uint64_t mask = ~uint64_t{0};
  if (from > first) mask &= ~uint64_t{0} << (from - first);
  if (to < first + kPerWord) mask &= ~(~uint64_t{0} << (to - first));
  return mask;
}

// The first bit in [from, to) that is set; `to` if none is. With the words turned over, the first clear one.
template <typename WordAt>
uint32_t NextSet(const WordAt& word_at, uint32_t from, uint32_t to) {
  for (size_t word = from / kPerWord; from < to && word < WordsFor(to); ++word) {
    const uint64_t found = word_at(word) & MaskIn(word, from, to);
    if (found != 0)
      return static_cast<uint32_t>(word * kPerWord) + static_cast<uint32_t>(std::countr_zero(found));
  }
  return to;
}

template <typename WordAt>
uint32_t NextClear(const WordAt& word_at, uint32_t from, uint32_t to) {
  return NextSet([&](size_t word) { return ~word_at(word); }, from, to);
}

template <typename WordAt>
uint32_t CountIn(const WordAt& word_at, uint32_t from, uint32_t to) {
  uint32_t count = 0;
  for (size_t word = from / kPerWord; from < to && word < WordsFor(to); ++word) {
    count += static_cast<uint32_t>(std::popcount(word_at(word) & MaskIn(word, from, to)));
  }
  return count;
}

}  // namespace bits

// A set of a blob's chunks, one bit each, worked on by words. Not thread-safe.
//
// REQUIRES, everywhere: chunks and spans lie within chunk_count(), and two sets that meet are equally large.
class ChunkSet {
  struct PlainWords {
    const uint64_t* words;
    uint64_t operator()(size_t i) const { return words[i]; }
  };

 public:
  explicit ChunkSet(uint32_t chunk_count = 0)
      : chunk_count_(chunk_count), words_(bits::WordsFor(chunk_count)) {}

  uint32_t chunk_count() const { return chunk_count_; }

  bool Has(ChunkIndex index) const { return (WordOf(index) & bits::MaskOf(index.value())) != 0; }
  void Add(ChunkIndex index) { WordOf(index) |= bits::MaskOf(index.value()); }
  void Remove(ChunkIndex index) { WordOf(index) &= ~bits::MaskOf(index.value()); }
  void Add(ChunkSpan span) {
    ForWords(span, [](uint64_t& word, uint64_t mask) { word |= mask; });
  }
  void Remove(ChunkSpan span) {
    ForWords(span, [](uint64_t& word, uint64_t mask) { word &= ~mask; });
  }
  void Clear() { words_.assign(words_.size(), 0); }

  bool empty() const {
    return std::all_of(words_.begin(), words_.end(), [](uint64_t word) { return word == 0; });
  }
  bool AllIn(ChunkSpan span) const { return NextClear(span) == span.end(); }
  uint32_t CountIn(ChunkSpan span) const {
    return bits::CountIn(Words(), span.first.value(), span.end().value());
  }
  uint32_t Count() const { return CountIn({ChunkIndex(0), chunk_count_}); }
  // The first chunk in `span` that is in the set, or that is not; span.end() if there is none.
  ChunkIndex NextSet(ChunkSpan span) const {
    return ChunkIndex(bits::NextSet(Words(), span.first.value(), span.end().value()));
  }
  ChunkIndex NextClear(ChunkSpan span) const {
    return ChunkIndex(bits::NextClear(Words(), span.first.value(), span.end().value()));
  }
  bool IsSubsetOf(const ChunkSet& other) const {
    for (size_t i = 0; i < words_.size(); ++i) {
      if (words_[i] & ~other.words_[i]) return false;
    }
    return true;
  }

  void UnionWith(const ChunkSet& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  }
  void IntersectWith(const ChunkSet& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] &= other.words_[i];
  }
  void Subtract(const ChunkSet& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] &= ~other.words_[i];
  }

  // The chunks of `span` as a set of their own, counted from its first one. REQUIRES: that is a multiple of
  // 64
  ChunkSet Slice(ChunkSpan span) const {
    ChunkSet slice(span.count);
    for (size_t i = 0; i < slice.words_.size(); ++i) {
      slice.words_[i] = words_[span.first.value() / bits::kPerWord + i] & bits::MaskIn(i, 0, span.count);
    }
    return slice;
  }
  // Adds the chunks of `slice`, which are counted from `first` on. REQUIRES: `first` is a multiple of 64
  void AddSlice(ChunkIndex first, const ChunkSet& slice) {
    for (size_t i = 0; i < slice.words_.size(); ++i) {
      words_[first.value() / bits::kPerWord + i] |= slice.words_[i];
    }
  }

  // Chunk i is bit i % 64 of word i / 64. Bits from chunk_count() on are clear.
  std::span<const uint64_t> words() const { return words_; }
  // Replaces word `i`; bits from chunk_count() on are dropped. REQUIRES: i < words().size()
  void SetWord(size_t i, uint64_t word) { words_[i] = word & bits::MaskIn(i, 0, chunk_count_); }

  friend bool operator==(const ChunkSet&, const ChunkSet&) = default;

 private:
  PlainWords Words() const { return {words_.data()}; }
  uint64_t& WordOf(ChunkIndex index) { return words_[index.value() / bits::kPerWord]; }
  uint64_t WordOf(ChunkIndex index) const { return words_[index.value() / bits::kPerWord]; }
  template <typename Change>
  void ForWords(ChunkSpan span, const Change& change) {
    if (span.count == 0) return;
    const uint32_t from = span.first.value(), to = span.end().value();
    for (size_t i = from / bits::kPerWord; i < bits::WordsFor(to); ++i) {
      change(words_[i], bits::MaskIn(i, from, to));
    }
  }

  uint32_t chunk_count_;
  std::vector<uint64_t> words_;
};

}  // namespace sluice
