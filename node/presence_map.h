#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "node/chunk_set.h"
#include "node/geometry.h"

namespace sluice {

// One bit per chunk of a blob: may its bytes be given to a reader?
// Lookups take no lock. Changes are serialised by a mutex, so that the map and its mirror never disagree for
// good.
//
// A mirror is a second copy of the bits in memory that another process reads (the keeper answers hits from
// it). Both ways the mirror goes first: a bit is set in it before it is set in the map, so that who finds the
// chunk in the map finds it in the mirror too; and cleared in it before it is cleared in the map, so that no
// chunk that this process knows as absent is still given out by the other.
//
// Thread-safe.
class PresenceMap {
 public:
  using Word = std::atomic<uint64_t>;
  static_assert(Word::is_always_lock_free, "the mirror is shared between processes");

  explicit PresenceMap(uint32_t chunk_count);
  PresenceMap(const PresenceMap&) = delete;
  PresenceMap& operator=(const PresenceMap&) = delete;

  // Words that `chunk_count` bits take up.
  static constexpr size_t WordsFor(uint32_t chunk_count) { return bits::WordsFor(chunk_count); }

  uint32_t chunk_count() const { return chunk_count_; }
  uint32_t present_count() const { return present_count_.load(std::memory_order_relaxed); }
  bool complete() const { return present_count() == chunk_count_; }

  bool IsPresent(ChunkIndex index) const {
    return (WordAt(index.value() / bits::kPerWord) & bits::MaskOf(index.value())) != 0;
  }
  bool AllPresent(ChunkSpan span) const {
    return span.count == 1 ? IsPresent(span.first) : FirstAbsent(span, 1).count == 0;
  }
  // The first run of absent chunks within `span`, at most `count_max` long; count is 0 if all are present.
  ChunkSpan FirstAbsent(ChunkSpan span, uint32_t count_max) const;
  uint32_t CountIn(ChunkSpan span) const;
  // What is present now, word by word.
  ChunkSet Snapshot() const;

  // Return whether the bit changed.
  bool Set(ChunkIndex index);
  bool Clear(ChunkIndex index);
  // Sets the chunks of `slice`, which are counted from `first` on, word by word. Returns how many bits
  // changed. REQUIRES: `first` is a multiple of 64, and the slice ends within the map.
  uint32_t SetSlice(ChunkIndex first, const ChunkSet& slice);
  void ClearAll();

  // Makes `mirror` equal to the map and keeps it so until Detach. A mirror that is already there is replaced.
  // REQUIRES: mirror.size() >= WordsFor(chunk_count()); mirror outlives the attachment.
  void Attach(std::span<Word> mirror);
  // Clears the mirror's bits, then lets it go. No-op without one.
  void Detach();

 private:
  uint64_t WordAt(size_t word) const { return words_[word].load(std::memory_order_acquire); }

  const uint32_t chunk_count_;
  const std::unique_ptr<Word[]> words_;
  std::atomic<uint32_t> present_count_{0};

  std::mutex mutex_;  // serialises changes; guards mirror_
  std::span<Word> mirror_;
};

}  // namespace sluice
