#pragma once

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "node/blob_key.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "ondemand/cache_objects.h"
#include "ondemand/keeper/journal.h"

namespace sluice::ondemand {

// Copies the store's bytes into the kernel's own copies (cachefiles): what a READ waits for at once, and
// whatever else is present in the store soon, so that the kernel never asks for it.
//
// Thread-safe.
class CacheFiller {
 public:
  using Done = absl::AnyInvocable<void(absl::Status) &&>;
  // Makes the kernel discard copies that nobody uses; returns whether that made room.
  using MakeRoom = std::function<bool()>;
  // Takes the ranges out of all copies that have a name, used or not; as CacheCuller::Drop.
  using Drop = std::function<absl::Status(const std::string& name, const std::vector<ByteRange>& ranges)>;
  // What it does to the kernel's copies by their names.
  struct Copies {
    MakeRoom make_room;
    Drop drop;
  };

  // The objects outlive it. Blobs' files are in `blobs_dir`, named as in the journal. `doubts_dir`, made if
  // it is missing, keeps the names of blobs whose copies may have what was taken back; without it they are
  // known for as long as this object lives.
  CacheFiller(std::shared_ptr<keeper::Journal> journal, CacheObjects& objects, std::string blobs_dir,
              Copies by_name, std::string doubts_dir = "");
  ~CacheFiller() { Stop(); }
  CacheFiller(const CacheFiller&) = delete;
  CacheFiller& operator=(const CacheFiller&) = delete;

  // What waits is done with Cancelled; nothing is written any more when it returns. Idempotent.
  void Stop();

  // REQUIRES: the range's bytes were present in the store just now. `done` is called once, on a thread of
  // ours or, after Stop(), on the caller's. Errors: ResourceExhausted (no room in the cache), Unavailable
  // (the object is not open; the bytes were taken back; the disk fails), DeadlineExceeded, Cancelled.
  void Fill(uint32_t object, uint32_t blob, ByteRange range, Instant deadline, Done done);

  // Chunks of the blob were taken back: the kernel's copies lose all that is absent now, so that the kernel
  // asks for it again, and are written again when it is present again. A read that the kernel had begun gets
  // what was there, or nothing of it. Errors: Unavailable (a copy has it still); to be repeated.
  absl::Status Revoke(uint32_t blob);
  // Whether chunks of the blob were taken back, now or by a predecessor, whose copies may not all know it.
  bool InDoubt(uint32_t blob) const;
  // The blob's copies are gone.
  void OnDiscarded(const BlobKey& key);
  // There may be more to copy than what was asked for.
  void Wake();

 private:
  struct Job {
    uint32_t object = 0;
    uint32_t blob = 0;
    ByteRange range;
    Instant deadline;
    Done done;
  };
  // What the kernel's copy has, a bit per chunk.
  struct Copy {
    uint32_t generation = 0;
    uint32_t blob = 0;
    std::vector<uint64_t> chunks;
    std::vector<uint64_t> revoked;  // what it has of these is to be written again
  };
  // Of a blob.
  struct Shape {
    uint64_t size = 0;
    uint32_t chunk_shift = 0;

    uint64_t ChunkCount() const { return ((size - 1) >> chunk_shift) + 1; }
    ByteRange RangeOf(uint64_t chunk) const {
      const uint64_t offset = chunk << chunk_shift;
      return {offset, std::min(uint64_t{1} << chunk_shift, size - offset)};
    }
  };
  // What was taken back since the blob has had its entry: copies that are opened later may have it.
  struct Revoked {
    uint32_t generation = 0;
    std::vector<uint64_t> chunks;
  };
  class Writer;
  // Two copies of the same bytes don't overtake each other: one may have read them before they were taken
  // back. By object and offset; held from the read to the write.
  static constexpr size_t kPlaces = 64;
  struct Places {
    std::array<std::mutex, kPlaces> copies;
    // Shared by who copies, before its place; alone, nobody is between a read and its write. A shared_mutex
    // would let those who share starve the other: all pass the gate first.
    std::mutex gate;
    std::shared_mutex copying;
  };

  void Work();
  absl::Status Execute(const Job& job, Writer& writer);
  void Sweep();
  // Whether anything was written. Stops when there is something to do for a reader.
  bool SweepObjects(Writer& writer);
  bool SweepObject(const CacheObjects::Object& object, Writer& writer);
  // Whether the chunk is to be written; sets the count of revocations so far.
  bool Lacks(const CacheObjects::Object& object, const Shape& shape, uint64_t chunk, uint64_t* revocations);
  void NoteWritten(const CacheObjects::Object& object, const Shape& shape, uint64_t chunk,
                   uint64_t revocations);
  Copy& CopyOf(const CacheObjects::Object& object, const Shape& shape);
  void NoteRevoked(uint32_t blob);
  absl::Status DropAbsent(uint32_t blob);
  absl::Status CheckDropped(uint32_t blob, const std::vector<ByteRange>& ranges);
  std::string DoubtPath(const keeper::BlobRecord& record) const;
  bool ReadersWait();
  bool Stopping();

  const std::shared_ptr<keeper::Journal> journal_;
  CacheObjects& objects_;
  const std::string blobs_dir_;
  const Copies by_name_;
  const std::string doubts_dir_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable work_;
  std::condition_variable sweep_;
  std::deque<Job> jobs_;
  bool woken_ = false;
  bool stopping_ = false;

  std::mutex copies_mutex_;                         // guards what follows
  absl::flat_hash_map<uint32_t, Copy> copies_;      // by the object's place
  absl::flat_hash_map<uint32_t, Revoked> revoked_;  // by the blob's entry
  uint64_t revocations_ = 0;

  Places places_;

  std::vector<std::thread> threads_;
};

}  // namespace sluice::ondemand
