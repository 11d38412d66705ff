#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "node/geometry.h"

namespace sluice {

// One bit per chunk of a blob: may its bytes be given to a reader?
// Lookups take no lock. Changes are serialised by a mutex, so that the map and its mirror never disagree for
// good.
//
// A mirror is a second copy of the bits in memory that another process reads (the keeper answers hits from
// it). A bit is set in the map first and in the mirror last, and cleared in the mirror first.
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
  static constexpr size_t WordsFor(uint32_t chunk_count) { return (size_t{chunk_count} + 63) / 64; }

  uint32_t chunk_count() const { return chunk_count_; }
  uint32_t present_count() const { return present_count_.load(std::memory_order_relaxed); }
  bool complete() const { return present_count() == chunk_count_; }

  bool IsPresent(ChunkIndex index) const {
    return words_[index.value() / 64].load(std::memory_order_acquire) >> (index.value() % 64) & 1;
  }
  bool AllPresent(ChunkSpan span) const;
  // The first run of absent chunks within `span`, at most `count_max` long; count is 0 if all are present.
  ChunkSpan FirstAbsent(ChunkSpan span, uint32_t count_max) const;

  // Return whether the bit changed.
  bool Set(ChunkIndex index);
  bool Clear(ChunkIndex index);
  void ClearAll();

  // Makes `mirror` equal to the map and keeps it so until Detach. A mirror that is already there is replaced.
  // REQUIRES: mirror.size() >= WordsFor(chunk_count()); mirror outlives the attachment.
  void Attach(std::span<Word> mirror);
  // Clears the mirror's bits, then lets it go. No-op without one.
  void Detach();

 private:
  const uint32_t chunk_count_;
  const std::unique_ptr<Word[]> words_;
  std::atomic<uint32_t> present_count_{0};

  std::mutex mutex_;  // serialises changes; guards mirror_
  std::span<Word> mirror_;
};

}  // namespace sluice
