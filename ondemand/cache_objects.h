#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/executor.h"
#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/journal.h"

namespace sluice::ondemand {

// The kernel's copies of blobs that are open (cachefiles), as descriptors to write them by. Follows what the
// keeper notes in the journal: takes a duplicate of each object that is opened, and lets go of it soon after
// it was closed, as the kernel waits for that.
//
// Thread-safe.
class CacheObjects {
 public:
  struct Object {
    uint32_t index = 0;  // in the journal's objects
    uint32_t generation = 0;
    uint32_t blob = 0;  // entry in the journal's blob table, and its generation
    uint32_t blob_generation = 0;
    std::shared_ptr<const keeper::Descriptor> file;
  };

  explicit CacheObjects(std::shared_ptr<keeper::Journal> journal);
  ~CacheObjects();
  CacheObjects(const CacheObjects&) = delete;
  CacheObjects& operator=(const CacheObjects&) = delete;

  // Where the keeper that runs now is asked for objects.
  void SetLine(keeper::Descriptor line);

  // The object that is open at that place now; waits for at most `timeout` until it is there, if one is open.
  std::optional<Object> Await(uint32_t index, Duration timeout);
  std::vector<Object> All();
  // Whether the kernel has an object open whose name begins so.
  bool IsOpen(std::string_view name) const;

 private:
  void Run();
  // Whether all is as the journal says.
  bool Follow();
  bool Fetch(uint32_t index, uint32_t generation);
  // The object's descriptor; invalid if it is not to be had now. REQUIRES: line_mutex_ is held
  keeper::Descriptor Ask(uint32_t index, uint32_t generation);
  void Drop(uint32_t index);

  const std::shared_ptr<keeper::Journal> journal_;
  std::atomic<bool> stopping_{false};

  std::mutex line_mutex_;  // guards line_; held for one question
  keeper::Descriptor line_;

  std::mutex mutex_;  // guards objects_
  std::condition_variable changed_;
  absl::flat_hash_map<uint32_t, Object> objects_;

  std::vector<uint32_t> generations_;  // as we know them; of the thread
  std::thread thread_;
};

}  // namespace sluice::ondemand
