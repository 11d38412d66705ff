#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "ondemand/keeper/fanotify/watch.h"
#include "ondemand/keeper/journal.h"

namespace sluice::keeper {

// Finds a guarded blob by its file: open addressing in fixed memory, no allocation. One thread.
class InodeTable {
 public:
  struct Blob {
    FileId file;
    uint32_t entry = 0;
    uint32_t chunk_shift = 0;
    uint64_t size = 0;
  };

  // nullptr if there is none. Valid until the next change.
  const Blob* Find(FileId file) const {
    for (uint32_t i = Home(file);; i = Next(i)) {
      if (!buckets_[i]) return nullptr;
      if (buckets_[i]->file == file) return &*buckets_[i];
    }
  }

  // Replaces what is there for the same file. REQUIRES: fewer than kBlobsMax others
  void Insert(const Blob& blob) {
    uint32_t i = Home(blob.file);
    while (buckets_[i] && buckets_[i]->file != blob.file) i = Next(i);
    buckets_[i] = blob;
  }

  void Erase(FileId file) {
    uint32_t hole = Home(file);
    while (buckets_[hole] && buckets_[hole]->file != file) hole = Next(hole);
    if (!buckets_[hole]) return;
    // Those behind move up, so that no search stops at the hole before it has met them.
    for (uint32_t i = Next(hole); buckets_[i]; i = Next(i)) {
      if (Distance(Home(buckets_[i]->file), i) < Distance(hole, i)) continue;
      buckets_[hole] = buckets_[i];
      hole = i;
    }
    buckets_[hole].reset();
  }

 private:
  static constexpr uint32_t kBuckets = 4 * kBlobsMax;  // never more than a quarter full

  static uint32_t Home(FileId file) {
    return static_cast<uint32_t>((file.inode * 0x9e3779b97f4a7c15u ^ file.device * 0xc2b2ae3d27d4eb4fu) >>
                                 40) %
           kBuckets;
  }
  static uint32_t Next(uint32_t i) { return (i + 1) % kBuckets; }
  static uint32_t Distance(uint32_t from, uint32_t to) { return (to + kBuckets - from) % kBuckets; }

  std::array<std::optional<Blob>, kBuckets> buckets_;
};

}  // namespace sluice::keeper
