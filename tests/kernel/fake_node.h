#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "ondemand/door.h"

namespace sluice::ondemand::test {

struct FakeNodeOptions {
  Backend backend = Backend::kFanotify;
  std::string root;                             // the directory of an ImageFixture
  Digest digest;                                // of the image's one blob
  std::string original_path;                    // where its bytes are
  std::chrono::microseconds fill_delay_max{0};  // each fill waits for a random part of it
  std::chrono::nanoseconds read_deadline = std::chrono::seconds(30);
  uint32_t slots_max = 16384;
  std::chrono::nanoseconds call_timeout = std::chrono::seconds(10);
  std::string keeper_path = {};  // empty: the build's
  DescriptorStore* descriptor_store = nullptr;
  bool guards = true;  // the image's blob; else its reads are errors
};

inline constexpr uint32_t kTestChunkSize = 64 << 10;

// What the bootstrap of the image with this blob is guarded as, by doors that guard it; its bytes are in
// boot.erofs.
Digest BootstrapDigest(const Digest& image);

// A daemon reduced to its door: every ticket is filled by copying the blob's bytes from a local file to the
// store's, past the watch.
class FakeNode {
 public:
  // Starts the door and guards the blob. On failure nothing is left, and *error says why.
  static std::unique_ptr<FakeNode> Start(FakeNodeOptions options, absl::Status* error);
  ~FakeNode();

  Door& door() { return *door_; }
  // The image's.
  Blob& blob() { return blob(options_.digest); }
  int store_fd() const { return image_->store.get(); }

  // Guards one more blob, whose bytes are in `original_path`; its file is in the store.
  absl::Status Guard(const Digest& digest, const std::string& original_path);
  // REQUIRES: the blob was guarded once
  Blob& blob(const Digest& digest);

  // What becomes of tickets from now on, those that are held included.
  void HoldTickets();
  void DropTickets();
  void FillTickets();
  // Keeps those of one blob, whatever becomes of others, until FillTickets.
  void HoldTicketsOf(const Digest& digest);
  size_t held_count();

  // Copies everything and sets all bits.
  void FillAll() { FillAll(options_.digest); }
  void FillAll(const Digest& digest);

 private:
  enum class Treatment { kFill, kHold, kDrop };
  struct Source {
    std::shared_ptr<Blob> blob;
    keeper::Descriptor original;
    keeper::Descriptor store;
  };

  explicit FakeNode(FakeNodeOptions options) : options_(std::move(options)) {}
  void Enqueue(ReadTicket ticket);
  void Work(unsigned seed);
  std::list<ReadTicket>::iterator NextTicket();
  void Treat(Treatment treatment);
  void Fill(ReadTicket ticket);
  static void CopyChunk(Source& source, ChunkIndex chunk);
  Source& AddSource(const Digest& digest, const std::string& original_path);
  Source* Find(const Digest& digest);

  const FakeNodeOptions options_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::map<Digest, std::unique_ptr<Source>> sources_;  // none ever goes
  std::list<ReadTicket> queue_;
  Treatment treatment_ = Treatment::kFill;
  std::set<Digest> held_;
  bool stopping_ = false;

  const Source* image_ = nullptr;
  std::vector<std::thread> workers_;
  std::unique_ptr<Door> door_;
};

}  // namespace sluice::ondemand::test
