#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "ondemand/door.h"

namespace sluice::ondemand::test {

struct FakeNodeOptions {
  std::string root;                             // the directory of an ImageFixture
  Digest digest;                                // of the image's one blob
  std::string original_path;                    // where its bytes are
  std::chrono::microseconds fill_delay_max{0};  // each fill waits for a random part of it
  std::chrono::nanoseconds read_deadline = std::chrono::seconds(30);
  uint32_t slots_max = 16384;
};

inline constexpr uint32_t kTestChunkSize = 64 << 10;

// A daemon reduced to its door: every ticket is filled by copying the blob's bytes from a local file to the
// store's, past the watch.
class FakeNode {
 public:
  // Starts the door and guards the blob. On failure nothing is left, and *error says why.
  static std::unique_ptr<FakeNode> Start(FakeNodeOptions options, absl::Status* error);
  ~FakeNode();

  Door& door() { return *door_; }
  Blob& blob() { return *blob_; }
  int store_fd() const { return store_fd_.get(); }

  // What becomes of tickets from now on, those that are held included.
  void HoldTickets();
  void DropTickets();
  void FillTickets();
  size_t held_count();

  // Copies everything and sets all bits.
  void FillAll();

 private:
  enum class Treatment { kFill, kHold, kDrop };

  explicit FakeNode(FakeNodeOptions options);
  void Enqueue(ReadTicket ticket);
  void Work(unsigned seed);
  void Treat(Treatment treatment);
  void Fill(ReadTicket ticket);
  void CopyChunk(ChunkIndex chunk);

  const FakeNodeOptions options_;
  keeper::Descriptor original_fd_;
  keeper::Descriptor store_fd_;
  std::shared_ptr<Blob> blob_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<ReadTicket> queue_;
  Treatment treatment_ = Treatment::kFill;
  bool stopping_ = false;

  std::vector<std::thread> workers_;
  std::unique_ptr<Door> door_;
};

}  // namespace sluice::ondemand::test
