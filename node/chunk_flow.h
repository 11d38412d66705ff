#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "node/blob_key.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice {

// Whom a chunk comes from.
struct FlowSender {
  // The member that had the bytes first, of those that they come by; none if a registry sends them.
  std::vector<std::string> passed_on_by = {};
  // It gives them to whoever asks, for it knows nothing of this node. Whether they are what was asked for is
  // not known before the chunk is proven, but nothing is lost if a stranger sees them.
  bool gives_everybody = false;
};

// A chunk that is coming just now, as far as it has come: whoever passes it on reads behind the source that
// writes it. Its last byte is told of only when the chunk was held against its recipe, so that nobody gets a
// wrong one whole. Source: PEERS.md, "Spreading": a helper passes bytes on as they come.
//
// Thread-safe.
class ChunkFlow {
 public:
  // With how many bytes are there; with nothing, if no more come.
  using OnBytes = absl::AnyInvocable<void(std::optional<size_t>) &&>;

  ChunkFlow(size_t length, FlowSender sender, Instant begun)
      : bytes_(ChunkMemory::Shared().Take(length)),
        length_(length),
        sender_(std::move(sender)),
        grown_(begun) {}
  ChunkFlow(const ChunkFlow&) = delete;
  ChunkFlow& operator=(const ChunkFlow&) = delete;

  size_t length() const { return length_; }
  // Those that Await told of are written, and stay as they are.
  std::byte* data() const { return bytes_.get(); }
  const FlowSender& sender() const { return sender_; }
  // No more come, and some are missing.
  bool failed() const;
  // Some are missing, and none have come for so long.
  bool IsQuietFor(Duration duration, Instant now) const;

  // `then` is called once, on this thread or the source's, when `count` bytes are there, or no more come.
  // Must not block. REQUIRES: 0 < count <= length
  void Await(size_t count, OnBytes then);

  // So many have come by now.
  void Grow(size_t filled, Instant now);
  // All have come; whether they are as promised, as far as anybody knows.
  void Judge(bool right);
  // No more come. No-op if all have, and were right.
  void End();

 private:
  struct Waiting {
    size_t count;
    OnBytes then;
  };

  size_t ShownLocked() const;
  void Tell(std::unique_lock<std::mutex> lock);

  const std::shared_ptr<std::byte[]> bytes_;
  const size_t length_;
  const FlowSender sender_;

  mutable std::mutex mutex_;  // guards what follows
  size_t filled_ = 0;
  Instant grown_;  // last
  bool right_ = false;
  bool over_ = false;
  std::vector<Waiting> waiting_;
};

// The chunks that are coming. Thread-safe.
class ChunkFlows : public std::enable_shared_from_this<ChunkFlows> {
 public:
  // Well before an asker takes whoever passes the bytes on for silent.
  static constexpr Duration kQuietMax = std::chrono::milliseconds(500);

  // Outlives what is begun.
  explicit ChunkFlows(const Clock& clock) : clock_(clock) {}

  // Told of each chunk of which the first bytes have come; on the source's thread. Must not block.
  using OnBegin = std::function<void(const BlobKey&, ChunkIndex)>;

  // From now on, but for what is being told just now; null: nobody is.
  void Observe(OnBegin on_begin);
  // Null if nothing of the chunk comes just now that anybody may see: what has stopped coming is of no use to
  // who has none of it yet.
  std::shared_ptr<ChunkFlow> Find(const BlobKey& blob, ChunkIndex chunk) const;
  // The first bytes come. It is found for as long as it is held. Null if another source brings the chunk; one
  // that has stopped gives way.
  std::shared_ptr<ChunkFlow> Begin(const BlobKey& blob, ChunkIndex chunk, size_t length, FlowSender sender);
  // Who looks for the chunk finds it now.
  void Tell(const BlobKey& blob, ChunkIndex chunk) const;
  // Nobody finds that one any more; who reads it goes on.
  void Forget(const BlobKey& blob, ChunkIndex chunk, const ChunkFlow* flow);
  // The chunk whose bytes these are was held against its recipe. No-op if nobody sees them.
  void Judge(const BlobKey& blob, ChunkIndex chunk, std::span<const std::byte> bytes, bool right) const;

 private:
  friend class ChunkInflow;
  using Name = std::pair<BlobKey, ChunkIndex>;
  struct Entry {
    const ChunkFlow* flow;
    std::weak_ptr<ChunkFlow> held;
  };

  std::shared_ptr<ChunkFlow> FindAny(const BlobKey& blob, ChunkIndex chunk) const;
  bool IsOfUse(const ChunkFlow& flow) const;

  const Clock& clock_;
  mutable std::mutex mutex_;  // guards what follows
  std::shared_ptr<const OnBegin> on_begin_;
  absl::flat_hash_map<Name, Entry> flows_;
};

// Gathers a chunk whose bytes come one after the other, and lets those see them meanwhile who pass them on.
// Its flow ends with it, or with the buffer that was taken of it, and is found no longer.
//
// Not thread-safe.
class ChunkInflow {
 public:
  ChunkInflow() = default;
  // Nobody sees it.
  explicit ChunkInflow(size_t length) : bytes_(length) {}
  // `flows` may be null: nobody sees it.
  ChunkInflow(ChunkFlows* flows, const BlobKey& blob, ChunkIndex chunk, size_t length, FlowSender sender);

  size_t filled() const { return filled_; }
  bool IsWhole() const { return filled_ == bytes_.size(); }
  // Takes what belongs to the chunk, and returns the rest.
  std::span<const std::byte> Add(std::span<const std::byte> bytes);
  // REQUIRES: IsWhole(). It is used no more.
  Buffer Take() { return std::move(bytes_); }

 private:
  Buffer bytes_;
  size_t filled_ = 0;
  ChunkFlows* flows_ = nullptr;  // told when the first bytes are there
  BlobKey blob_;
  ChunkIndex chunk_;
  ChunkFlow* flow_ = nullptr;  // held by bytes_; null: nobody sees it
};

}  // namespace sluice
