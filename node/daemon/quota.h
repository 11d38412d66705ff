#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "index/disk_store.h"
#include "node/blob_key.h"
#include "node/evictor.h"
#include "node/executor.h"
#include "node/telemetry.h"

namespace sluice {

// Keeps the store within its capacity: above the high watermark blobs are evicted, used longest ago first, on
// a thread of its own. Mounted, leased and pinned blobs stay: if they alone are too much, that is an alarm,
// and the store goes on growing for as long as the disk takes it.
//
// Thread-safe.
class Quota {
 public:
  // How often it looks by itself.
  static constexpr Duration kInterval = std::chrono::seconds(1);
  // What was unmounted is let go of a moment later: while nothing has been evicted for less than this,
  // writers wait and look again; after that they pass, and what is over the capacity is an alarm.
  static constexpr Duration kPatience = std::chrono::milliseconds(500);
  // Between two rounds that could evict nothing; for so long, too, no writer whose patience is over waits for
  // another one, though something was there to be evicted.
  static constexpr Duration kFruitlessPause = std::chrono::milliseconds(50);
  // How long a writer waits for room.
  static constexpr Duration kRoomWaitMax = std::chrono::seconds(2);

  // All are called on the quota's thread, and outlive Stop.
  struct Parts {
    index::DiskStore& store;
    Telemetry& telemetry;
    std::function<uint64_t()> kernel_bytes;                      // of the kernel's copies; asked now and then
    std::function<void(const BlobKey&)> release;                 // before an eviction
    std::function<absl::Status(const BlobKey&)> discard_copies;  // the kernel's, after it
    std::function<void(const std::string&)> alarm;
  };
  // REQUIRES: limits.low_percent < limits.high_percent <= 100, limits.capacity_bytes > 0
  Quota(Parts parts, StoreLimits limits);
  ~Quota();

  // What is taken up now.
  uint64_t UsedBytes() const;

  // Waits, for a while, until so many bytes more fit into the capacity, or, `need` being kDiskFull, until
  // some have been given back to the disk. Returns though they could not be; at once if nothing could be
  // evicted for kPatience, and nothing can be now. Any thread but those of the callbacks.
  void MakeRoom(uint64_t bytes, index::RoomNeed need);

  // Idempotent. Whoever waits is let go.
  void Stop();

 private:
  void Run();
  std::vector<EvictionCandidate> Candidates() const;
  bool EvictDownTo(uint64_t target_bytes);
  bool EvictOne(const EvictionCandidate& victim);
  bool IsHopeless(Instant now) const;
  void AskForAlarm();
  void NoteFruit(bool evicted);
  void NoteOver(uint64_t used);  // with mutex_ held

  const Parts parts_;
  const StoreLimits limits_;

  std::atomic<uint64_t> kernel_bytes_{0};            // as it was asked last
  std::atomic<Instant> fruitless_until_{Instant()};  // see kFruitlessPause
  // The first of the rounds that could evict nothing, none having done so since; Instant() if the last did.
  std::atomic<Instant> fruitless_since_{Instant()};

  std::mutex mutex_;  // guards what follows, except thread_
  std::condition_variable wake_, ended_;
  bool stopping_ = false;
  bool disk_full_ = false;  // since the last round
  uint64_t rounds_asked_ = 0;
  uint64_t rounds_done_ = 0;
  bool alarmed_ = false;  // that too much is in use

  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace sluice
