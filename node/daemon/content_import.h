#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "absl/container/flat_hash_set.h"
#include "index/disk_store.h"
#include "node/executor.h"
#include "node/image_counters.h"

namespace sluice {

// Takes what containerd's content store holds into this node's store, on a thread of low priority: all of it
// at first, then what comes. What goes is the store's to find (DiskStore::CheckFiles).
//
// Thread-safe.
class ContentImport {
 public:
  // From the end of one look to the next; and where something came just now.
  static constexpr Duration kInterval = std::chrono::seconds(5);
  static constexpr Duration kSoon = std::chrono::seconds(1);
  // Blobs of which it was said that they can't be taken in.
  static constexpr size_t kToldMax = 1024;

  // Begins. All outlive Stop; `warn` is called on the thread.
  ContentImport(index::DiskStore& store, ImageCounters& counters,
                std::function<void(const std::string&)> warn);
  ~ContentImport() { Stop(); }

  // Ends a hash that is under way. Idempotent.
  void Stop();

 private:
  void Run();
  // Whether to look again soon.
  bool Look();
  bool Take(const Digest& digest);
  void TellOnce(const std::string& text);

  index::DiskStore& store_;
  ImageCounters& counters_;
  const std::function<void(const std::string&)> warn_;

  // Of the thread.
  std::string no_list_;                    // why there was none last time
  absl::flat_hash_set<std::string> told_;  // and not told again

  std::atomic<bool> stopping_{false};  // changed with mutex_ held
  std::mutex mutex_;
  std::condition_variable wake_;
  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace sluice
