#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "node/digest.h"
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

  // The objects outlive it. Blobs' files are in `blobs_dir`, named as in the journal.
  // `doubts_dir`, made if it is missing, keeps the names of blobs whose copies may be wrong.
  CacheFiller(std::shared_ptr<keeper::Journal> journal, CacheObjects& objects, std::string blobs_dir,
              std::string doubts_dir, MakeRoom make_room);
  ~CacheFiller() { Stop(); }
  CacheFiller(const CacheFiller&) = delete;
  CacheFiller& operator=(const CacheFiller&) = delete;

  // What waits, and what comes, is done with Cancelled. Idempotent; not on a thread of ours.
  void Stop();

  // REQUIRES: the range's bytes are present in the store. `done` is called once, on a thread of ours. Errors:
  // ResourceExhausted (no room in the cache), Unavailable (the object is not open; the disk fails),
  // DeadlineExceeded.
  void Fill(const keeper::SlotRead& read, Done done);

  // Chunks of the blob were taken back: they are written again when they are present again. Until its copies
  // are discarded, no later filler either takes what they have for right.
  void Revoke(uint32_t blob);
  // The blob's copies are gone.
  void OnDiscarded(const Digest& digest);
  // There may be more to copy than what was asked for.
  void Wake();

 private:
  struct Job {
    keeper::SlotRead read;
    Done done;
  };
  // What the kernel's copy has, a bit per chunk.
  struct Copy {
    uint32_t generation = 0;
    uint32_t blob = 0;
    std::vector<uint64_t> chunks;
    uint64_t revocations = 0;
  };
  class Writer;
  // Two copies of the same bytes don't overtake each other: one may have read them before they were taken
  // back.
  static constexpr size_t kPlaces = 64;

  void Work();
  absl::Status Execute(const Job& job, Writer& writer);
  void Sweep();
  // Whether anything was written. Stops when there is something to do for a reader.
  bool SweepObjects(Writer& writer);
  bool SweepObject(const CacheObjects::Object& object, Writer& writer);
  Copy& CopyOf(const CacheObjects::Object& object, const keeper::BlobRecord& record);
  std::string DoubtPath(std::string_view blob_name) const;
  bool ReadersWait();

  const std::shared_ptr<keeper::Journal> journal_;
  CacheObjects& objects_;
  const std::string blobs_dir_;
  const std::string doubts_dir_;
  const MakeRoom make_room_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable work_;
  std::condition_variable sweep_;
  std::deque<Job> jobs_;
  bool woken_ = false;
  bool stopping_ = false;

  std::mutex copies_mutex_;                     // guards copies_
  absl::flat_hash_map<uint32_t, Copy> copies_;  // by the object's place
  std::array<std::mutex, kPlaces> places_;      // by object and offset: held from the read to the write

  std::vector<std::thread> threads_;
};

}  // namespace sluice::ondemand
